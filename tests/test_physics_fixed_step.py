"""Every integrator converges at the order it claims, in Python, compiled, and across the knots of a curve."""

import dataclasses

import numpy as np
import pytest

from neural_hamilton.physics import FIXED_STEP_METHODS, Curves, InputError, solve
from neural_hamilton.physics.solvers import FixedStepMethod
from neural_hamilton.physics.solvers.knot_steps import integrate_to_knots
from neural_hamilton.physics.solvers.problems import count_substeps
from neural_hamilton.physics.solvers.reference import solve_control_polygon
from neural_hamilton.physics.systems.well.textbook import NAMED_POTENTIALS

HARMONIC, PENDULUM = NAMED_POTENTIALS["harmonic"], NAMED_POTENTIALS["pendulum"]
TIMES = np.linspace(0.4, 2.0, 5)
ORDERS = {
    "rk4": 4, "stormer-verlet": 2, "yoshida4": 4, "yoshida6": 6, "yoshida8": 8, "blanes-moan4": 4, "blanes-moan6": 6,
    "gauss-legendre4": 4, "dop853-fixed": 8,
    "rk4-as-published": 1,
}  # fmt: skip
# Numbers of steps in each interval of 0.4: fine enough to be asymptotic, coarse enough to stay above rounding.
STEPS = {
    "rk4": (8, 16, 32, 64),
    "stormer-verlet": (16, 32, 64, 128),
    "yoshida4": (16, 32, 64, 128),
    "yoshida6": (12, 16, 20, 24),
    "yoshida8": (10, 12, 14, 16),
    "blanes-moan4": (8, 12, 16, 24),
    "blanes-moan6": (3, 4, 5, 6),
    "gauss-legendre4": (8, 16, 32, 64),
    "dop853-fixed": (3, 4, 5, 6),
    "rk4-as-published": (500, 1000, 2000, 4000),
}
SYMMETRIC = {"stormer-verlet", "yoshida4", "yoshida6", "yoshida8", "blanes-moan4", "blanes-moan6", "gauss-legendre4"}  # and symplectic
EVALUATIONS = {
    "rk4": 4, "stormer-verlet": 1, "yoshida4": 3, "yoshida6": 7, "yoshida8": 15, "blanes-moan4": 6, "blanes-moan6": 14, "dop853-fixed": 12,
    "rk4-as-published": 1,
}  # fmt: skip

every_method = pytest.mark.parametrize("name", ORDERS)


def integrate(potential, q0, p0, times, method="rk4", max_step=None, tolerance=None):
    return solve(potential, q0, p0, times, method=method, step=max_step, tolerance=tolerance)[:2]


def integrate_batch(curves, q0, p0, times, method="rk4", max_step=None, num_threads=None):
    return solve(curves, q0, p0, times, method=method, step=max_step, num_threads=num_threads)[:2]


def is_implicit(method):
    return bool(np.any(np.triu(method.tableau[1])))


def is_symplectic(method):
    """Whether the step preserves area for every potential (Hairer, Lubich & Wanner, Geometric Numerical Integration, IV.2.4)."""
    nodes, a, weights_q, weights_p = method.tableau
    exchange = weights_p[:, None] * (weights_q[None, :] - a)
    return bool(np.allclose(weights_q, weights_p * (1.0 - nodes), atol=1e-12) and np.allclose(exchange, exchange.T, atol=1e-12))


def is_symmetric(method):
    """Whether a step back undoes a step; read off the reversed tableau, whose stages start from the state it ends in."""
    nodes, a, weights_q, weights_p = method.tableau
    reverse = slice(None, None, -1)
    b = weights_p[reverse]
    return bool(
        np.allclose(nodes, 1.0 - nodes[reverse], atol=1e-12)
        and np.allclose(weights_p, b, atol=1e-12)
        and np.allclose(weights_q, b - weights_q[reverse], atol=1e-12)
        and np.allclose(a + weights_q[reverse], a[reverse, reverse] + np.outer(nodes, b), atol=1e-12)
    )


def measured_order(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def worst(answer, truth):
    return max(float(np.abs(a - b).max()) for a, b in zip(answer, truth, strict=True))


def errors(name, potential, truth):
    return [worst(integrate(potential, 0.0, 0.0, TIMES, method=name, max_step=0.4 / steps), truth) for steps in STEPS[name]]


def test_every_integrator_is_measured():
    assert set(STEPS) == set(ORDERS) == set(FIXED_STEP_METHODS)


@every_method
class TestOrder:
    def test_claims_its_order(self, name):
        assert FIXED_STEP_METHODS[name].order == ORDERS[name]

    def test_python(self, name):
        assert measured_order(STEPS[name], errors(name, HARMONIC, HARMONIC.truth(TIMES))) == pytest.approx(ORDERS[name], abs=0.2)

    def test_compiled(self, name):
        exact = Curves.from_samples(HARMONIC.value(np.linspace(0, 1, 11)))  # a spline through a parabola is that parabola
        assert measured_order(STEPS[name], errors(name, exact, HARMONIC.truth(TIMES))) == pytest.approx(ORDERS[name], abs=0.2)

    def test_nonlinear(self, name):
        # The pendulum needs finer steps of some methods to be asymptotic; errors stay above 1e-13.
        steps = {"dop853-fixed": (7, 8, 9, 10, 11), "blanes-moan6": (5, 6, 7, 8)}.get(name, STEPS[name])
        truth = PENDULUM.truth(TIMES)
        found = [worst(integrate(PENDULUM, 0.0, 0.0, TIMES, method=name, max_step=0.4 / n), truth) for n in steps]
        assert measured_order(steps, found) == pytest.approx(ORDERS[name], abs=0.2)


def test_a_first_order_rk4_cannot_be_made():
    with pytest.raises(ValueError, match="rk4 claims order 4; its coefficients give 1"):
        dataclasses.replace(FIXED_STEP_METHODS["rk4"], tableau=FIXED_STEP_METHODS["rk4-as-published"].tableau)


@pytest.mark.parametrize("name", sorted(set(ORDERS) - {"rk4-as-published"}))
def test_damaged_coefficients_are_noticed(name):
    nodes, a, weights_q, weights_p = FIXED_STEP_METHODS[name].tableau
    with pytest.raises(ValueError, match="claims order"):
        FixedStepMethod(name, FIXED_STEP_METHODS[name].order, (nodes, a, weights_q, weights_p * (1 + 1e-9)), "damaged")


@every_method
def test_forces_are_counted(name):
    potential = Curves.from_samples(HARMONIC.value(np.linspace(0, 1, 11)))
    solution = solve(potential, np.zeros(2), np.zeros(2), np.linspace(0.1, 1.0, 10), method=name, step=0.05)
    if is_implicit(FIXED_STEP_METHODS[name]):
        assert np.all(solution.num_evaluations % 2 == 0) and np.all(
            (solution.num_evaluations > 20 * 4) & (solution.num_evaluations < 20 * 30)
        )
    else:
        np.testing.assert_array_equal(solution.num_evaluations, 20 * EVALUATIONS[name])


class CountingHarmonic:
    """Counts from outside what a step asks of the potential."""

    def __init__(self):
        self.calls = 0

    def value(self, q):
        return HARMONIC.value(q)

    def gradient(self, q):
        self.calls += 1
        return HARMONIC.gradient(q)


@pytest.mark.parametrize("name", sorted(EVALUATIONS))
def test_the_counts_are_what_a_potential_sees(name):
    potential = CountingHarmonic()
    solution = solve(potential, 0.0, 0.0, np.array([1.0]), method=name, step=0.1)
    assert potential.calls == solution.num_evaluations == 10 * EVALUATIONS[name]


# A cubic: anharmonic, and as smooth as a spline can be, so that backward error analysis applies.
SMOOTH = Curves.from_samples([8 * (q - 0.5) ** 2 * (1 + 0.8 * (q - 0.5)) for q in np.linspace(0, 1, 9)])


def relative_energy_errors(name, num_steps, h):
    q, p = integrate(SMOOTH, 0.15, 0.0, h * np.arange(1, num_steps + 1), method=name, max_step=h)
    energy = float(SMOOTH.value(np.array(0.15)))
    return np.abs(0.5 * p**2 + SMOOTH.value(q) - energy) / energy


@pytest.mark.parametrize("name", sorted(SYMMETRIC))
def test_symplectic_methods_keep_energy_over_100000_steps(name):
    # A coarse step, so that there is something to keep bounded.
    drift = relative_energy_errors(name, 100_000, 0.2 if name == "blanes-moan6" else 0.05)
    assert 1e-9 < drift[:10_000].max() < 0.1
    assert drift[-10_000:].max() < 1.02 * drift[:10_000].max()


@pytest.mark.parametrize("name", ["rk4", "dop853-fixed"])
def test_other_methods_let_energy_drift(name):
    drift = relative_energy_errors(name, 100_000, 0.05)
    assert drift[-10_000:].max() > 5 * drift[:10_000].max()


@every_method
def test_symmetry_and_area_as_the_coefficients_say(name):
    assert is_symmetric(FIXED_STEP_METHODS[name]) == (name in SYMMETRIC)
    assert is_symplectic(FIXED_STEP_METHODS[name]) == (name in SYMMETRIC)


@every_method
def test_symmetric_methods_retrace_their_steps(name):
    time = np.array([3.0])
    q, p = integrate(SMOOTH, 0.2, 0.7, time, method=name, max_step=0.1)
    back = integrate(SMOOTH, q[0], -p[0], time, method=name, max_step=0.1)
    distance = max(abs(back[0][0] - 0.2), abs(back[1][0] + 0.7))
    assert distance < 1e-13 if name in SYMMETRIC else not distance < 1e-10


def test_an_unsolved_implicit_step_is_seen():
    # h^2 V'' = 16 * 4: the iteration of the stages runs away.
    with np.errstate(all="ignore"):
        for potential in (HARMONIC, Curves.from_samples(HARMONIC.value(np.linspace(0, 1, 11)))):
            q, p = integrate(potential, 0.1, 0.0, np.array([0.5, 2.5, 4.5]), method="gauss-legendre4", max_step=2.0)
            assert np.isfinite(q[0]) and np.isfinite(p[0])
            assert np.isnan(q[1:]).all() and np.isnan(p[1:]).all()


def test_gauss_legendre_solves_its_stages():
    """One step of the harmonic oscillator is linear: the (2, 2) Pade approximant of the exponential, in closed form."""
    h = 0.3
    generator = h * np.array([[0.0, 1.0], [-16.0, 0.0]])
    numerator, denominator = (np.eye(2) + s * generator / 2 + generator @ generator / 12 for s in (1, -1))
    expected = np.linalg.solve(denominator, numerator @ [0.3, 0.5])
    q, p = integrate(HARMONIC, 0.8, 0.5, np.array([h]), method="gauss-legendre4", max_step=h)
    np.testing.assert_allclose([q[0] - 0.5, p[0]], expected, atol=2e-15)


CONTROL_Q = np.array([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0])
CONTROL_V = np.array([2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
POTENTIAL = Curves.from_control_points(CONTROL_Q, CONTROL_V)
PIECES = POTENTIAL.poly_q[0], POTENTIAL.poly_v[0]


def states(name, start, steps):
    return np.array(integrate_to_knots(*PIECES, FIXED_STEP_METHODS[name].tableau, *start, TIMES, np.full(TIMES.size, steps))[:2])


@pytest.fixture(scope="module")
def orbits():
    """156 orbits of the curve, each with its true states; the truth itself is checked against SciPy on a few."""
    starts = [(q0, p0) for q0 in np.linspace(0.2, 0.8, 13) for p0 in np.linspace(-1.2, 1.2, 12)]
    truths = [(start, states("dop853-fixed", start, 96)) for start in starts]
    for start, truth in truths[::40]:
        np.testing.assert_allclose(truth, solve_control_polygon(CONTROL_Q, CONTROL_V, *start, TIMES), atol=1e-12)
    return truths


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("rk4", (32, 64, 128, 256)),
        ("stormer-verlet", (64, 128, 256, 512)),
        ("gauss-legendre4", (32, 64, 128, 256)),
        ("dop853-fixed", (5, 6, 8, 10, 12, 16)),
    ],
)
def test_knots_cost_no_order(orbits, name, steps):
    # Where in a step a knot falls changes with the step, so single errors wander; their geometric mean does not.
    found = [np.exp(np.mean([np.log(np.abs(states(name, start, n) - truth).max()) for start, truth in orbits])) for n in steps]
    assert measured_order(steps, found) == pytest.approx(FIXED_STEP_METHODS[name].order, abs=0.2)


def test_a_kernel_blind_to_knots_would_lose_order():
    """Shows that the test above can fail: the same orbits by the kernel that steps across knots."""
    truth = solve_control_polygon(CONTROL_Q, CONTROL_V, 0.2, -1.0, TIMES)
    steps = (16, 24, 32, 48)
    found = [worst(integrate(POTENTIAL, 0.2, -1.0, TIMES, method="dop853-fixed", max_step=0.4 / n), truth) for n in steps]
    assert measured_order(steps, found) < 7.0


def test_pieces_report_the_energy_drift():
    times = np.linspace(0.0, 2.0, 201)
    q, p, drift = integrate_to_knots(*PIECES, FIXED_STEP_METHODS["rk4"].tableau, 0.0, 0.0, times, np.ones(times.size, dtype=np.int64))
    seen = np.abs(0.5 * p**2 + POTENTIAL.value(q) - 2.0).max()
    assert drift == pytest.approx(seen, rel=1e-9)


@every_method
def test_python_and_compiled_agree(name):
    """The cursor that the compiled force starts from changes nothing but rounding."""
    # Over times in which rounding is hardly amplified; the wild start crosses several knots a step.
    for start in [(0.0, 0.0), (0.5, -1.7)]:
        compiled = integrate(POTENTIAL, *start, TIMES[:3], method=name, max_step=0.05)

        class Plain:
            value, gradient = POTENTIAL.value, POTENTIAL.gradient

        plain = integrate(Plain(), *start, TIMES[:3], method=name, max_step=0.05)
        np.testing.assert_allclose(compiled, plain, atol=3e-12)


class TestBatch:
    rng = np.random.default_rng(0)
    # Curves of different lengths, splines among them: more orbits than a thread takes at a time.
    curves = Curves.join([POTENTIAL, SMOOTH, Curves.from_samples(POTENTIAL.value(np.linspace(0, 1, 50)))] * 60)
    q0, p0 = rng.uniform(0.1, 0.9, 180), rng.uniform(-1, 1, 180)

    @every_method
    def test_is_integrate_row_by_row(self, name):
        times = np.sort(self.rng.uniform(0, 2, (180, 7)), axis=1)
        q, p = integrate_batch(self.curves, self.q0, self.p0, times, method=name, max_step=0.03, num_threads=2)
        for b in (0, 1, 2, 100, 179):
            row = integrate(self.curves[b], self.q0[b], self.p0[b], times[b], method=name, max_step=0.03)
            np.testing.assert_array_equal([q[b], p[b]], row)

    def test_threads_change_nothing(self):
        answers = [integrate_batch(self.curves, self.q0, self.p0, TIMES, max_step=0.01, num_threads=n) for n in (1, 2, None)]
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, answers[0])

    def test_one_curve_serves_all(self):
        np.testing.assert_array_equal(
            integrate_batch(SMOOTH, self.q0, self.p0, TIMES, max_step=0.1),
            integrate_batch(Curves.join([SMOOTH] * 180), self.q0, self.p0, TIMES, max_step=0.1),
        )

    def test_none_is_none(self):
        none = SMOOTH.take(np.arange(0))
        q, p = integrate_batch(none, np.empty(0), np.empty(0), TIMES, max_step=0.1)
        assert q.shape == p.shape == (0, 5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"q0": np.zeros(3)}, "q0 and p0 have shapes"),
            ({"q0": np.zeros((2, 2)), "p0": np.zeros((2, 2))}, "q0 and p0 have shapes"),
            ({"curves": Curves.join([SMOOTH] * 3)}, "curves are 3, orbits 2"),
            ({"times": np.zeros((3, 4))}, r"times have shape \(3, 4\)"),
            ({"times": np.array([1.0, np.nan])}, "sorted"),
            ({"method": "euler"}, "'euler'"),
            ({"method": "dop853"}, "'dop853' chooses its own"),
            ({"method": "quadrature"}, "'quadrature' chooses its own"),
            ({"max_step": -1.0}, "step is -1.0"),
        ],
    )
    def test_bad_requests_are_refused(self, change, message):
        request = {"curves": Curves.join([SMOOTH, SMOOTH]), "q0": np.zeros(2), "p0": np.zeros(2), "times": TIMES, "max_step": 0.1} | change
        with pytest.raises(InputError, match=message):
            integrate_batch(request.pop("curves"), request.pop("q0"), request.pop("p0"), request.pop("times"), **request)


class TestAdaptive:
    def test_meets_its_tolerance(self):
        truth = HARMONIC.truth(TIMES)
        found = [worst(integrate(HARMONIC, 0.0, 0.0, TIMES, method="dop853", tolerance=t), truth) for t in (1e-6, 1e-9, 1e-12)]
        assert found[0] < 1e-4 and found[1] < 1e-7 and found[2] < 1e-10
        assert found[0] > found[1] > found[2]

    def test_times_may_start_at_zero_and_repeat(self):
        q, p = integrate(HARMONIC, 0.3, 0.2, np.array([0.0, 0.0, 1.0, 1.0]), method="dop853", tolerance=1e-10)
        assert (q[0], p[0]) == (q[1], p[1]) == (0.3, 0.2)
        assert (q[2], p[2]) == (q[3], p[3])

    def test_only_time_zero(self):
        assert integrate(HARMONIC, 0.3, 0.2, np.zeros(1), method="dop853", tolerance=1e-10)[0] == [0.3]


def test_published_rk4_is_the_scheme_the_science_notes_give():
    q, p = integrate(HARMONIC, 0.2, 0.1, np.array([0.01]), method="rk4-as-published", max_step=0.01)
    force = -HARMONIC.gradient(0.2)
    assert q[0] == pytest.approx(0.2 + 0.01 * 0.1 + 5 / 12 * 1e-4 * force, abs=1e-15)
    assert p[0] == pytest.approx(0.1 + 0.01 * force, abs=1e-15)


def test_times_may_start_at_zero_and_repeat():
    q, p = integrate(HARMONIC, 0.3, 0.2, np.array([0.0, 0.0, 1.0, 1.0]), max_step=0.01)
    assert (q[0], p[0]) == (q[1], p[1]) == (0.3, 0.2)
    assert (q[2], p[2]) == (q[3], p[3])


def test_substeps_divide_exact_multiples_exactly():
    np.testing.assert_array_equal(count_substeps(np.linspace(0.0, 2.0, 101), 0.01), [1] + [2] * 100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), method="euler"), "'euler'.*rk4"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), method="taylor", tolerance=1e-6), "Curves only"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), max_step=0.0), "step is 0.0"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), max_step=float("nan")), "step is nan"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0])), "step is None"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), max_step=0.1, tolerance=1e-3), "takes step instead"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), method="dop853", max_step=0.1), "takes tolerance instead"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), method="dop853", tolerance=0.0), "tolerance is 0.0"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0, 0.5]), method="dop853", tolerance=1e-3), "sorted"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0, 0.5]), max_step=0.1), "sorted"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([-1.0]), max_step=0.1), "negative"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
