"""Every integrator converges at the order it claims, in Python, compiled, and across the knots of a curve."""

import dataclasses

import numpy as np
import pytest

from neural_hamilton.physics import INTEGRATORS, NAMED_POTENTIALS, CurvePotential, InputError, integrate, integrate_batch
from neural_hamilton.physics.kernels import integrate_pieces
from neural_hamilton.physics.solvers.fixed_step import count_substeps, get_integrator, integrate_batch_counted
from neural_hamilton.physics.solvers.methods import Integrator
from neural_hamilton.physics.solvers.reference import solve_control_polygon, solve_smooth

HARMONIC, PENDULUM = NAMED_POTENTIALS["harmonic"], NAMED_POTENTIALS["pendulum"]
TIMES = np.linspace(0.4, 2.0, 5)
ORDERS = {
    "rk4": 4, "stormer-verlet": 2, "yoshida4": 4, "yoshida6": 6, "yoshida8": 8, "gauss-legendre4": 4, "dop853": 8, "rk4-as-published": 1,
}  # fmt: skip
# Numbers of steps in each interval of 0.4: fine enough to be asymptotic, coarse enough to stay above rounding.
STEPS = {
    "rk4": (8, 16, 32, 64),
    "stormer-verlet": (16, 32, 64, 128),
    "yoshida4": (16, 32, 64, 128),
    "yoshida6": (12, 16, 20, 24),
    "yoshida8": (10, 12, 14, 16),
    "gauss-legendre4": (8, 16, 32, 64),
    "dop853": (3, 4, 5, 6),
    "rk4-as-published": (500, 1000, 2000, 4000),
}
SYMMETRIC = {"stormer-verlet", "yoshida4", "yoshida6", "yoshida8", "gauss-legendre4"}  # and symplectic
EVALUATIONS = {"rk4": 4, "stormer-verlet": 1, "yoshida4": 3, "yoshida6": 7, "yoshida8": 15, "dop853": 12, "rk4-as-published": 1}

every_method = pytest.mark.parametrize("name", ORDERS)


def measured_order(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def worst(answer, truth):
    return max(float(np.abs(a - b).max()) for a, b in zip(answer, truth, strict=True))


def errors(name, potential, truth):
    return [worst(integrate(potential, 0.0, 0.0, TIMES, method=name, max_step=0.4 / steps), truth) for steps in STEPS[name]]


def test_every_integrator_is_measured():
    assert set(STEPS) == set(ORDERS) == set(INTEGRATORS)


@every_method
class TestOrder:
    def test_claims_its_order(self, name):
        assert INTEGRATORS[name].order == ORDERS[name]

    def test_python(self, name):
        assert measured_order(STEPS[name], errors(name, HARMONIC, HARMONIC.truth(TIMES))) == pytest.approx(ORDERS[name], abs=0.2)

    def test_compiled(self, name):
        exact = CurvePotential.from_samples(HARMONIC.value(np.linspace(0, 1, 11)))  # a spline through a parabola is that parabola
        assert measured_order(STEPS[name], errors(name, exact, HARMONIC.truth(TIMES))) == pytest.approx(ORDERS[name], abs=0.2)

    def test_nonlinear(self, name):
        # The pendulum needs finer steps of dop853 to be asymptotic; errors stay above 1e-13.
        steps = (7, 8, 9, 10, 11) if name == "dop853" else STEPS[name]
        truth = solve_smooth(PENDULUM, 0.0, 0.0, TIMES)
        found = [worst(integrate(PENDULUM, 0.0, 0.0, TIMES, method=name, max_step=0.4 / n), truth) for n in steps]
        assert measured_order(steps, found) == pytest.approx(ORDERS[name], abs=0.2)


def test_a_first_order_rk4_cannot_be_made():
    with pytest.raises(ValueError, match="rk4 claims order 4; its coefficients give 1"):
        dataclasses.replace(INTEGRATORS["rk4"], tableau=INTEGRATORS["rk4-as-published"].tableau)


@pytest.mark.parametrize("name", sorted(set(ORDERS) - {"rk4-as-published"}))
def test_damaged_coefficients_are_noticed(name):
    nodes, a, weights_q, weights_p = INTEGRATORS[name].tableau
    with pytest.raises(ValueError, match="claims order"):
        Integrator(name, INTEGRATORS[name].order, (nodes, a, weights_q, weights_p * (1 + 1e-9)), "damaged")


@every_method
def test_forces_are_counted(name):
    potential = CurvePotential.from_samples(HARMONIC.value(np.linspace(0, 1, 11)))
    solution = integrate_batch_counted(potential, np.zeros(2), np.zeros(2), np.linspace(0.1, 1.0, 10), method=name, max_step=0.05)
    if INTEGRATORS[name].is_implicit:
        assert INTEGRATORS[name].evaluations_per_step is None
        assert np.all(solution.num_evaluations % 2 == 0) and np.all(
            (solution.num_evaluations > 20 * 4) & (solution.num_evaluations < 20 * 30)
        )
    else:
        assert INTEGRATORS[name].evaluations_per_step == EVALUATIONS[name]
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
    integrate(potential, 0.0, 0.0, np.array([1.0]), method=name, max_step=0.1)
    assert potential.calls == 10 * EVALUATIONS[name]


# A cubic: anharmonic, and as smooth as a spline can be, so that backward error analysis applies.
SMOOTH = CurvePotential.from_samples([8 * (q - 0.5) ** 2 * (1 + 0.8 * (q - 0.5)) for q in np.linspace(0, 1, 9)])


def relative_energy_errors(name, num_steps, h):
    q, p = integrate(SMOOTH, 0.15, 0.0, h * np.arange(1, num_steps + 1), method=name, max_step=h)
    energy = float(SMOOTH.value(np.array(0.15)))
    return np.abs(0.5 * p**2 + SMOOTH.value(q) - energy) / energy


@pytest.mark.parametrize("name", sorted(SYMMETRIC))
def test_symplectic_methods_keep_energy_over_100000_steps(name):
    drift = relative_energy_errors(name, 100_000, 0.05)
    assert 1e-9 < drift[:10_000].max() < 0.1  # a coarse step, so that there is something to keep bounded
    assert drift[-10_000:].max() < 1.02 * drift[:10_000].max()


@pytest.mark.parametrize("name", ["rk4", "dop853"])
def test_other_methods_let_energy_drift(name):
    drift = relative_energy_errors(name, 100_000, 0.05)
    assert drift[-10_000:].max() > 5 * drift[:10_000].max()


@every_method
def test_symmetry_and_area_as_the_coefficients_say(name):
    assert INTEGRATORS[name].is_symmetric == (name in SYMMETRIC)
    assert INTEGRATORS[name].is_symplectic == (name in SYMMETRIC)


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
        for potential in (HARMONIC, CurvePotential.from_samples(HARMONIC.value(np.linspace(0, 1, 11)))):
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
POTENTIAL = CurvePotential.from_control_points(CONTROL_Q, CONTROL_V)


def states(name, start, steps):
    return np.array(integrate_pieces(POTENTIAL.curve, INTEGRATORS[name].tableau, *start, TIMES, np.full(TIMES.size, steps))[:2])


@pytest.fixture(scope="module")
def orbits():
    """156 orbits of the curve, each with its true states; the truth itself is checked against SciPy on a few."""
    starts = [(q0, p0) for q0 in np.linspace(0.2, 0.8, 13) for p0 in np.linspace(-1.2, 1.2, 12)]
    truths = [(start, states("dop853", start, 96)) for start in starts]
    for start, truth in truths[::40]:
        np.testing.assert_allclose(truth, solve_control_polygon(CONTROL_Q, CONTROL_V, *start, TIMES), atol=1e-12)
    return truths


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("rk4", (32, 64, 128, 256)),
        ("stormer-verlet", (64, 128, 256, 512)),
        ("gauss-legendre4", (32, 64, 128, 256)),
        ("dop853", (5, 6, 8, 10, 12, 16, 20, 24)),
    ],
)
def test_knots_cost_no_order(orbits, name, steps):
    # Where in a step a knot falls changes with the step, so single errors wander; their geometric mean does not.
    found = [np.exp(np.mean([np.log(np.abs(states(name, start, n) - truth).max()) for start, truth in orbits])) for n in steps]
    assert measured_order(steps, found) == pytest.approx(INTEGRATORS[name].order, abs=0.2)


def test_a_kernel_blind_to_knots_would_lose_order():
    """Shows that the test above can fail: the same orbits by the kernel that steps across knots."""
    truth = solve_control_polygon(CONTROL_Q, CONTROL_V, 0.2, -1.0, TIMES)
    steps = (16, 24, 32, 48)
    found = [worst(integrate(POTENTIAL, 0.2, -1.0, TIMES, method="dop853", max_step=0.4 / n), truth) for n in steps]
    assert measured_order(steps, found) < 7.0


def test_pieces_report_the_energy_drift():
    times = np.linspace(0.0, 2.0, 201)
    q, p, drift = integrate_pieces(POTENTIAL.curve, INTEGRATORS["rk4"].tableau, 0.0, 0.0, times, np.ones(times.size, dtype=np.int64))
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
    curves = [POTENTIAL, SMOOTH, CurvePotential.from_samples(POTENTIAL.value(np.linspace(0, 1, 50)))] * 60
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
            integrate_batch([SMOOTH] * 180, self.q0, self.p0, TIMES, max_step=0.1),
        )

    def test_none_is_none(self):
        q, p = integrate_batch([], np.empty(0), np.empty(0), TIMES, max_step=0.1)
        assert q.shape == p.shape == (0, 5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"q0": np.zeros(3)}, "q0 and p0 have shapes"),
            ({"q0": np.zeros((2, 2)), "p0": np.zeros((2, 2))}, "q0 and p0 have shapes"),
            ({"curves": [SMOOTH]}, "curves are 1, orbits 2"),
            ({"times": np.zeros((3, 4))}, r"times have shape \(3, 4\)"),
            ({"times": np.array([1.0, np.nan])}, "sorted"),
            ({"method": "euler"}, "'euler'"),
            ({"method": "scipy-dop853"}, "'scipy-dop853'"),
            ({"max_step": -1.0}, "max_step is -1.0"),
        ],
    )
    def test_bad_requests_are_refused(self, change, message):
        request = {"curves": [SMOOTH, SMOOTH], "q0": np.zeros(2), "p0": np.zeros(2), "times": TIMES, "max_step": 0.1} | change
        with pytest.raises(InputError, match=message):
            integrate_batch(request.pop("curves"), request.pop("q0"), request.pop("p0"), request.pop("times"), **request)


class TestAdaptive:
    def test_meets_its_tolerance(self):
        truth = HARMONIC.truth(TIMES)
        found = [worst(integrate(HARMONIC, 0.0, 0.0, TIMES, method="scipy-dop853", tolerance=t), truth) for t in (1e-6, 1e-9, 1e-12)]
        assert found[0] < 1e-4 and found[1] < 1e-7 and found[2] < 1e-10
        assert found[0] > found[1] > found[2]

    def test_times_may_start_at_zero_and_repeat(self):
        q, p = integrate(HARMONIC, 0.3, 0.2, np.array([0.0, 0.0, 1.0, 1.0]), method="scipy-dop853", tolerance=1e-10)
        assert (q[0], p[0]) == (q[1], p[1]) == (0.3, 0.2)
        assert (q[2], p[2]) == (q[3], p[3])

    def test_only_time_zero(self):
        assert integrate(HARMONIC, 0.3, 0.2, np.zeros(1), method="scipy-dop853", tolerance=1e-10)[0] == [0.3]


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
        (lambda: get_integrator("euler"), "'euler'.*rk4"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), max_step=0.0), "max_step is 0.0"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), max_step=float("nan")), "max_step is nan"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0])), "max_step is None"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), max_step=0.1, tolerance=1e-3), "takes max_step instead"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), method="scipy-dop853", max_step=0.1), "takes tolerance instead"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0]), method="scipy-dop853", tolerance=0.0), "tolerance is 0.0"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0, 0.5]), method="scipy-dop853", tolerance=1e-3), "sorted"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0, 0.5]), max_step=0.1), "sorted"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([-1.0]), max_step=0.1), "negative"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
