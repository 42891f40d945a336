"""Every integrator converges at the order it claims, in Python, compiled, and across the knots of a curve."""

import numpy as np
import pytest

from neural_hamilton.physics import INTEGRATORS, NAMED_POTENTIALS, CurvePotential, InputError, integrate
from neural_hamilton.physics.integrators import count_substeps, get_integrator
from neural_hamilton.physics.kernels import integrate_pieces
from neural_hamilton.physics.reference import solve_control_polygon

HARMONIC = NAMED_POTENTIALS["harmonic"]
TIMES = np.linspace(0.4, 2.0, 5)
# Numbers of steps in each interval of 0.4: fine enough to be asymptotic, coarse enough to stay above rounding.
STEPS = {"rk4": (8, 16, 32, 64), "stormer-verlet": (16, 32, 64, 128), "rk4-as-published": (500, 1000, 2000, 4000), "dop853": (2, 3, 4, 6)}


def measured_order(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def harmonic_errors(name, potential):
    true_q, true_p = HARMONIC.truth(TIMES)
    for steps in STEPS[name]:
        q, p = integrate(potential, 0.0, 0.0, TIMES, method=name, max_step=0.4 / steps)
        yield max(np.abs(q - true_q).max(), np.abs(p - true_p).max())


def test_every_integrator_is_measured():
    assert set(STEPS) == set(INTEGRATORS)


@pytest.mark.parametrize(("name", "order"), [("rk4", 4), ("stormer-verlet", 2), ("rk4-as-published", 1), ("dop853", 8)])
class TestOrder:
    def test_claims_its_order(self, name, order):
        assert INTEGRATORS[name].order == order

    def test_python(self, name, order):
        assert measured_order(STEPS[name], list(harmonic_errors(name, HARMONIC))) == pytest.approx(order, abs=0.2)

    def test_compiled(self, name, order):
        sensors = np.linspace(0, 1, 11)
        exact = CurvePotential.from_samples(HARMONIC.value(sensors))  # a spline through a parabola is that parabola
        assert measured_order(STEPS[name], list(harmonic_errors(name, exact))) == pytest.approx(order, abs=0.2)


CONTROL_Q = np.array([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0])
CONTROL_V = np.array([2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])


def states(name, start, steps):
    curve = CurvePotential.from_control_points(CONTROL_Q, CONTROL_V).curve
    return np.array(integrate_pieces(curve, INTEGRATORS[name].tableau, *start, TIMES, np.full(TIMES.size, steps))[:2])


@pytest.fixture(scope="module")
def orbits():
    """156 orbits of the curve, each with its true states; the truth itself is checked against SciPy on a few."""
    starts = [(q0, p0) for q0 in np.linspace(0.2, 0.8, 13) for p0 in np.linspace(-1.2, 1.2, 12)]
    truths = [(start, states("dop853", start, 96)) for start in starts]
    for start, truth in truths[::40]:
        np.testing.assert_allclose(truth, solve_control_polygon(CONTROL_Q, CONTROL_V, *start, TIMES), atol=1e-12)
    return truths


@pytest.mark.parametrize(
    ("name", "steps"), [("rk4", (32, 64, 128, 256)), ("stormer-verlet", (64, 128, 256, 512)), ("dop853", (5, 6, 8, 10, 12, 16, 20, 24))]
)
def test_knots_cost_no_order(orbits, name, steps):
    # Where in a step a knot falls changes with the step, so single errors wander; their geometric mean does not.
    errors = [np.exp(np.mean([np.log(np.abs(states(name, start, n) - truth).max()) for start, truth in orbits])) for n in steps]
    assert measured_order(steps, errors) == pytest.approx(INTEGRATORS[name].order, abs=0.2)


def test_a_kernel_blind_to_knots_would_lose_order():
    """Shows that the test above can fail: the same orbits by the kernel that steps across knots."""
    potential = CurvePotential.from_control_points(CONTROL_Q, CONTROL_V)
    true_q, true_p = solve_control_polygon(CONTROL_Q, CONTROL_V, 0.2, -1.0, TIMES)
    steps = (16, 24, 32, 48)
    errors = []
    for n in steps:
        q, p = integrate(potential, 0.2, -1.0, TIMES, method="dop853", max_step=0.4 / n)
        errors.append(max(np.abs(q - true_q).max(), np.abs(p - true_p).max()))
    assert measured_order(steps, errors) < 7.0


def test_pieces_report_the_energy_drift():
    potential = CurvePotential.from_control_points(CONTROL_Q, CONTROL_V)
    times = np.linspace(0.0, 2.0, 201)
    q, p, drift = integrate_pieces(potential.curve, INTEGRATORS["rk4"].tableau, 0.0, 0.0, times, np.ones(times.size, dtype=np.int64))
    seen = np.abs(0.5 * p**2 + potential.value(q) - 2.0).max()
    assert drift == pytest.approx(seen, rel=1e-9)


def test_stormer_verlet_is_reversible_and_keeps_area():
    potential = CurvePotential.from_control_points(CONTROL_Q, CONTROL_V)

    def flow(q0, p0):
        q, p = integrate(potential, q0, p0, np.array([2.0]), method="stormer-verlet", max_step=0.02)
        return np.array([q[0], p[0]])

    q, p = flow(0.4, 0.3)
    np.testing.assert_allclose(flow(q, -p), [0.4, -0.3], atol=1e-11)
    e = 1e-6
    jacobian = np.stack([(flow(0.4 + e, 0.3) - flow(0.4 - e, 0.3)), (flow(0.4, 0.3 + e) - flow(0.4, 0.3 - e))], axis=1) / (2 * e)
    assert np.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-6)


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
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([1.0, 0.5]), max_step=0.1), "sorted"),
        (lambda: integrate(HARMONIC, 0.0, 0.0, np.array([-1.0]), max_step=0.1), "negative"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
