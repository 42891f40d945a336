"""Orbits by quadrature against closed forms and against time-steppers that share nothing with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import ellipk
from well_helpers import draw, polygon

from neural_hamilton.physics import Curves, InputError, solve
from neural_hamilton.physics.solvers.reference import solve_control_polygon
from neural_hamilton.physics.systems.well.textbook import NAMED_POTENTIALS

TIMES = np.linspace(0.0, 2.0, 101)


def by_quadrature(potential, q0, p0, times):
    return solve(potential, q0, p0, times, method="quadrature")[:2]


def by_steps(potential, q0, p0, times):
    """SciPy's DOP853 in short steps, which keep its dense output as accurate as the steps themselves."""

    def slope(_, state):
        return [state[1], -float(potential.gradient(state[0]))]

    control = {"rtol": 1e-13, "atol": 1e-15, "max_step": 0.01}
    return solve_ivp(slope, (0.0, times[-1]), [q0, p0], "DOP853", t_eval=times, **control).y


HARMONIC = NAMED_POTENTIALS["harmonic"]
AS_FUNCTIONS_AND_AS_CURVE = (HARMONIC, Curves.from_samples(HARMONIC.value(np.linspace(0, 1, 11))))


def harmonic_motion(q0, p0, t):
    return 0.5 + (q0 - 0.5) * np.cos(4 * t) + p0 / 4 * np.sin(4 * t), -4 * (q0 - 0.5) * np.sin(4 * t) + p0 * np.cos(4 * t)


@pytest.mark.parametrize("potential", AS_FUNCTIONS_AND_AS_CURVE, ids=["functions", "curve"])
@given(q0=st.floats(0, 1), momentum=st.floats(-1, 1))
def test_harmonic(potential, q0, momentum):
    amplitude = np.sqrt(max(0.0, 0.25 - (q0 - 0.5) ** 2))
    p0 = 4 * amplitude * momentum * 0.999
    if np.hypot(q0 - 0.5, p0 / 4) < 1e-3 and (q0, p0) != (0.5, 0.0):
        return  # so small an orbit is refused; see below
    times = np.linspace(-3.0, 50.0, 50)[::-1]
    answer, truth = by_quadrature(potential, q0, p0, times), harmonic_motion(q0, p0, times)
    np.testing.assert_allclose(answer, truth, atol=1e-12)


@pytest.mark.parametrize("name", ["mirrored-free-fall", "asymmetric-triangular"])
def test_kinks(name):
    potential = NAMED_POTENTIALS[name]
    np.testing.assert_allclose(by_quadrature(potential, 0.0, 0.0, TIMES), potential.truth(TIMES), atol=1e-13)


def test_pendulum_period():
    """T = 4 K(sin^2(angle / 2)) / omega, with the angle 60 degrees at the walls."""
    theta = np.pi / 3
    period = 4 * ellipk(np.sin(theta / 2) ** 2) / (2 * theta * np.sqrt(2 / (1 - np.cos(theta))))
    q, p = by_quadrature(NAMED_POTENTIALS["pendulum"], 0.0, 0.0, np.array([period / 2, period, 100 * period]))
    np.testing.assert_allclose(q, [1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(p, 0.0, atol=1e-11)


@pytest.mark.parametrize("name", ["double-well", "morse", "pendulum", "softened"])
@pytest.mark.parametrize("start", [(0.0, 0.0), (0.3, 0.9), (0.7, -1.2)])
def test_smooth_potentials_against_a_time_stepper(name, start):
    potential = NAMED_POTENTIALS[name]
    np.testing.assert_allclose(by_quadrature(potential, *start, TIMES), by_steps(potential, *start, TIMES), atol=5e-12)


@st.composite
def problems(draw):
    """Curves like those of the ensembles, with an orbit that stays inside."""
    n = draw(st.integers(2, 7))
    inner = [(j + draw(st.floats(0.15, 0.85))) / n for j in range(n)]
    control_q = np.array([0.0, *inner, 1.0])
    control_v = np.array([2.0, *draw(st.lists(st.floats(-1.5, 1.9), min_size=n, max_size=n)), 2.0])
    q0 = draw(st.floats(0.02, 0.98))
    potential = Curves.from_control_points(control_q, control_v)
    kinetic = draw(st.floats(0.05, 0.99)) * (2.0 - float(potential.value(np.array(q0))))
    return control_q, control_v, potential, q0, draw(st.sampled_from([-1.0, 1.0])) * np.sqrt(2 * kinetic)


def distance_to_separatrix(potential, energy):
    tops = [*potential.value(np.linspace(0, 1, 20_001))]
    inner = [v for before, v, after in zip(tops, tops[1:], tops[2:], strict=False) if before < v > after]
    return min((abs(energy - v) for v in inner), default=2.0)


@settings(max_examples=12)
@given(problems())
def test_random_curves_against_a_time_stepper(problem):
    control_q, control_v, potential, q0, p0 = problem
    energy = 0.5 * p0 * p0 + float(potential.value(np.array(q0)))
    if distance_to_separatrix(potential, energy) < 0.02:
        return
    times = TIMES[::10]
    answer = by_quadrature(potential, q0, p0, times)
    np.testing.assert_allclose(answer, solve_control_polygon(control_q, control_v, q0, p0, times), atol=3e-11)


@given(problems())
def test_energy_and_reversal(problem):
    _, _, potential, q0, p0 = problem
    energy = 0.5 * p0 * p0 + float(potential.value(np.array(q0)))
    if distance_to_separatrix(potential, energy) < 1e-3:
        return
    q, p = by_quadrature(potential, q0, p0, TIMES)
    assert np.abs(0.5 * p**2 + potential.value(q) - energy).max() < 1e-13
    assert abs(q[0] - q0) < 1e-13 and abs(p[0] - p0) < 1e-12
    back_q, back_p = by_quadrature(potential, float(q[-1]), -float(p[-1]), np.array([2.0]))
    np.testing.assert_allclose([back_q[0], back_p[0]], [q0, -p0], atol=1e-10)


@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_agrees_with_the_rows_of_datasets(preset):
    """Two truths of different make: Taylor series in time, and an integral over position."""
    rows = draw(preset, 0, "test", np.arange(48))
    for i in range(48):
        potential = Curves.from_control_points(*polygon(rows, i))
        answer = by_quadrature(potential, float(rows.q0[i]), float(rows.p0[i]), rows.times[i])
        np.testing.assert_allclose(answer, [rows.q[i], rows.p[i]], atol=5e-12)


def test_from_rest_at_the_wall():
    control_q, control_v = np.array([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0]), np.array([2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
    answer = by_quadrature(Curves.from_control_points(control_q, control_v), 0.0, 0.0, TIMES)
    assert (answer[0][0], answer[1][0]) == (0.0, 0.0)
    np.testing.assert_allclose(answer, solve_control_polygon(control_q, control_v, 0.0, 0.0, TIMES), atol=3e-12)


@pytest.mark.parametrize("offset", [0.0, 1e-15, -1e-15, 1e-12, -1e-12, 1e-9, -1e-9, 1e-6, -1e-6])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_turning_points_a_hair_from_a_knot(offset, side):
    """The place where careless quadrature loses half its digits: the orbit turns at a knot, nearly or exactly."""
    control_q, control_v = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), np.array([2.0, 1.0, -1.0, -1.2, 0.9, 2.0])
    potential = Curves.from_control_points(control_q, control_v)
    knot = potential.poly_q[0, 1 if side < 0 else -1, 0]
    q0 = 0.5
    height = float(potential.value(np.array(knot))) + offset
    p0 = float(np.sqrt(2 * (height - float(potential.value(np.array(q0))))))
    answer = by_quadrature(potential, q0, p0, TIMES)
    np.testing.assert_allclose(answer, solve_control_polygon(control_q, control_v, q0, p0, TIMES), atol=5e-12)


@pytest.mark.parametrize("p0", [0.0, 1e-3, -1e-3, 1e-9, -1e-9, 1e-15])
def test_slow_starts_on_a_slope(p0):
    for potential in AS_FUNCTIONS_AND_AS_CURVE:
        np.testing.assert_allclose(by_quadrature(potential, 0.1, p0, TIMES), harmonic_motion(0.1, p0, TIMES), atol=1e-14)


@pytest.mark.parametrize("p0", [0.0, 0.7, -0.7])
def test_starts_on_a_knot(p0):
    control_q, control_v = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), np.array([2.0, 1.0, -1.0, -1.2, 0.9, 2.0])
    potential = Curves.from_control_points(control_q, control_v)
    for knot in potential.poly_q[0, 1:, 0]:
        answer = by_quadrature(potential, float(knot), p0, TIMES)
        np.testing.assert_allclose(answer, solve_control_polygon(control_q, control_v, float(knot), p0, TIMES), atol=5e-12)


def test_a_particle_at_rest_in_equilibrium_stays():
    for potential in AS_FUNCTIONS_AND_AS_CURVE[:1]:  # the curve's slope at 1/2 is rounding, not zero
        q, p = by_quadrature(potential, 0.5, 0.0, TIMES)
        assert np.all(q == 0.5) and not p.any()


def test_shapes_are_kept():
    q, p = by_quadrature(HARMONIC, np.zeros(2), np.zeros(2), np.zeros((2, 3)))
    assert q.shape == p.shape == (2, 3)
    q, p = HARMONIC.truth(np.zeros((2, 3)))
    assert q.shape == p.shape == (2, 3)


DOUBLE_WELL = NAMED_POTENTIALS["double-well"]
TOP = float(np.sqrt(2 * (DOUBLE_WELL.value(0.5))))


@pytest.mark.parametrize(
    ("potential", "start", "message"),
    [
        (DOUBLE_WELL, (0.2, TOP), "too near"),
        (DOUBLE_WELL, (0.2, TOP + 1e-10), "passes the top of a barrier at q = 0.5 "),
        (DOUBLE_WELL, (0.2, TOP - 1e-12), "too near an equilibrium"),
        (HARMONIC, (0.5, 1e-7), "too near an equilibrium"),
        (HARMONIC, (0.5, 2.1), "leaves its domain"),
        (HARMONIC, (-0.1, 0.0), "q0 must be between 0 and 1"),
        (HARMONIC, (0.1, np.nan), "p0 finite"),
        (AS_FUNCTIONS_AND_AS_CURVE[1], (0.5, 2.1), "leaves its domain"),
        (AS_FUNCTIONS_AND_AS_CURVE[1], (0.5, 1e-7), "too near"),
    ],
)
def test_what_cannot_be_done_well_is_refused(potential, start, message):
    with pytest.raises(InputError, match=message):
        by_quadrature(potential, *start, TIMES)


def test_near_a_separatrix_the_answer_is_still_right():
    """The clearance of 1e-4 amplifies rounding about 10^4 times, as documented; a time-stepper pays the same price."""
    p0 = float(np.sqrt(TOP**2 + 2e-4))
    np.testing.assert_allclose(by_quadrature(DOUBLE_WELL, 0.2, p0, TIMES), by_steps(DOUBLE_WELL, 0.2, p0, TIMES), atol=1e-9)


def test_a_potential_without_a_domain_is_refused():
    class Unbounded:
        value, gradient = staticmethod(HARMONIC.value), staticmethod(HARMONIC.gradient)

    with pytest.raises(InputError, match="needs a potential with a `domain`"):
        by_quadrature(Unbounded(), 0.1, 0.0, TIMES)
