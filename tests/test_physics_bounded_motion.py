"""Bounded motion along a line: periods and orbits against closed forms and SciPy, and the well that it is equivalent to."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import ellipk

from neural_hamilton.physics import InputError
from neural_hamilton.physics.bounded_motion import find_motion


def double_well(x):
    return (x * x - 1.0) ** 2


def slope_of_double_well(x):
    return 4.0 * x * (x * x - 1.0)


def test_the_period_of_a_pendulum_is_the_elliptic_integral():
    amplitude = 2.5
    motion = find_motion(lambda x: 1.0 - np.cos(x), amplitude, 0.0, mass=1.0, domain=(-3.0, 3.0))
    assert motion.period == pytest.approx(4.0 * ellipk(math.sin(0.5 * amplitude) ** 2), rel=1e-12)
    assert motion.turning_points == pytest.approx((-amplitude, amplitude), rel=1e-14)


def test_the_period_and_the_orbit_of_morse_are_the_closed_ones():
    depth, a, mass, energy = 4.6, 1.9, 0.98, 1.3
    motion = find_motion(lambda x: depth * (1.0 - np.exp(-a * x)) ** 2, 0.0, math.sqrt(2.0 * mass * energy), mass=mass, domain=(-1.0, 5.0))
    frequency = a * math.sqrt(2.0 * (depth - energy) / mass)
    assert motion.period == pytest.approx(2.0 * math.pi / frequency, rel=1e-12)
    times = np.linspace(0.0, 50.0 * motion.period, 777)
    ratio = math.sqrt(energy / depth)
    # exp(a x) = (1 + ratio sin(frequency t + phase)) / (1 - ratio²), as sin(phase) = -ratio at x = 0.
    phase = -math.asin(ratio)
    expected = np.log((1.0 + ratio * np.sin(frequency * times + phase)) / (1.0 - ratio**2)) / a
    np.testing.assert_allclose(motion.solve(times)[0], expected, atol=2e-9)


@settings(max_examples=15, deadline=None)
@given(
    q0=st.floats(-1.6, 1.6), p0=st.floats(-3.0, 3.0), mass=st.floats(0.1, 10.0), stretch=st.floats(0.1, 10.0), height=st.floats(0.1, 10.0)
)
def test_orbits_are_those_of_a_solver(q0, p0, mass, stretch, height):
    def value(x):
        return height * double_well(x / stretch)

    start, momentum = q0 * stretch, p0 * math.sqrt(mass * height)
    barrier = 0.5 * momentum**2 / mass + value(start) - height
    if abs(barrier) < 0.05 * height or barrier < -0.98 * height:
        return  # near the separatrix and at the bottom a solver is not exact either
    motion = find_motion(value, start, momentum, mass=mass, domain=(-4.0 * stretch, 4.0 * stretch))
    times = np.linspace(0.0, 2.0 * motion.period, 60)
    rates = lambda _, y: [y[1] / mass, -height / stretch * slope_of_double_well(y[0] / stretch)]  # noqa: E731
    scale = np.array([stretch, math.sqrt(mass * height)])
    solution = solve_ivp(rates, (0.0, times[-1]), [start, momentum], method="DOP853", t_eval=times, rtol=1e-11, atol=1e-11 * scale)
    np.testing.assert_allclose(np.array(motion.solve(times)) / scale[:, None], solution.y / scale[:, None], atol=3e-7)


def test_the_start_is_the_state_at_time_zero_and_time_runs_both_ways():
    motion = find_motion(double_well, 0.3, -2.0, mass=1.5, domain=(-3.0, 3.0))
    q, p = motion.solve(np.array([0.0, motion.period, -motion.period]))
    np.testing.assert_allclose(q, 0.3, atol=1e-9)
    np.testing.assert_allclose(p, -2.0, atol=1e-8)


@pytest.mark.parametrize("time_scale", [0.3, 1.0, 4.0])
def test_the_equivalent_well_has_the_same_motion(time_scale):
    motion = find_motion(double_well, 0.3, 2.0, mass=1.5, domain=(-3.0, 3.0))
    well = motion.well(time_scale, 2.0)
    np.testing.assert_allclose(well(np.array([0.0, 1.0])), 2.0, atol=1e-12)
    swing = find_motion(well, 0.0, 0.0, mass=1.0, domain=(0.0, 1.0))
    assert swing.half_period == pytest.approx(motion.half_period / time_scale, rel=1e-11)
    times = np.linspace(0.0, 3.0 * motion.period, 50)
    within, direction = motion.fold(times)
    u, momentum = swing.solve(within / time_scale)
    q, p = motion.solve(times)
    np.testing.assert_allclose(motion.turning_points[0] + motion.width * u, q, atol=1e-8)
    np.testing.assert_allclose(direction * motion.mass * motion.width / time_scale * momentum, p, atol=1e-7)


def test_a_kink_costs_accuracy_and_not_the_period():
    motion = find_motion(np.abs, 0.5, 0.0, mass=2.0, domain=(-1.0, 1.0))
    assert motion.period == pytest.approx(4.0 * math.sqrt(2.0 * 2.0 * 0.5), rel=1e-7)
    assert 1e-12 < motion.accuracy < 1e-6


@pytest.mark.parametrize("unit", [1e-300, 1e-12, 1e12, 1e300])
def test_any_unit_of_energy_will_do(unit):
    motion = find_motion(lambda x: unit * (x - 0.5) ** 2, 1.0, 0.0, mass=1.0, domain=(-0.7, 2.0))
    assert motion.turning_points == pytest.approx((0.0, 1.0), abs=1e-15)
    assert motion.period == pytest.approx(2.0 * math.pi / math.sqrt(2.0 * unit), rel=1e-12)
    q, p = motion.solve(motion.period * np.array([0.0, 0.25, 0.5]))
    np.testing.assert_allclose(q, [1.0, 0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(p / math.sqrt(2.0 * unit), [0.0, -0.5, 0.0], atol=1e-9)


def test_a_barrier_between_two_places_of_the_search_is_found():
    def value(x):
        return x * x + 10.0 * np.exp(-(((x - 0.30001) / 1e-4) ** 2))

    motion = find_motion(value, -0.5, 0.0, mass=1.0, domain=(-2.0, 2.0))
    assert motion.turning_points[1] < 0.30001


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"q0": 0.0}, "q0 is 0, where a particle at rest stays on a top of the potential, energy 1"),
        ({"q0": 1.0}, "q0 is 1, where a particle at rest stays: the potential is nowhere lower"),
        (
            {"q0": 0.0, "p0": 9.0},
            "q0 and p0 give energy 41.5, with which the particle leaves the domain at q = -1.5, where the potential is 1.56",
        ),
        ({"q0": 0.0, "p0": 1e300}, "energy inf"),
        ({"q0": 2.0}, "q0 is 2; it must lie in the domain, from -1.5 to 1.5"),
        ({"q0": 0.5, "p0": math.nan}, "p0 is nan; it must be finite"),
        ({"q0": 0.5, "mass": 0.0}, "mass is 0; it must be positive"),
        ({"q0": 0.5, "domain": (1.0, -1.0)}, "domain is (1, -1); give two numbers, the smaller first"),
        ({"q0": 0.2, "p0": math.sqrt(2.0 * (1.0 + 1e-10 - double_well(0.2)))}, "too close to a separatrix"),
    ],
)
def test_what_has_no_bounded_motion_is_refused_in_one_sentence(start, words):
    with pytest.raises(InputError) as refused:
        find_motion(double_well, **({"p0": 0.0, "mass": 1.0, "domain": (-1.5, 1.5)} | start))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_particle_at_rest_may_start_at_a_place_of_the_search():
    for q0 in (thousandth / 1000 for thousandth in range(2, 500)):  # 0.018 is one of them, but for rounding
        motion = find_motion(lambda x: (x - 0.5) ** 2, q0, 0.0, mass=1.0, domain=(0.0, 1.0))
        assert motion.turning_points == pytest.approx((q0, 1.0 - q0), abs=1e-9)


@pytest.mark.parametrize("low", [-10.0, -3.0, 0.2, 0.7])
def test_what_lies_far_above_the_energy_changes_no_motion(low):
    """The wall of Morse's potential is 1e19 high at -10; a particle at rest is not at an equilibrium for that."""
    morse = lambda x: 4.6 * (1.0 - np.exp(-1.9 * (x - 1.27))) ** 2  # noqa: E731
    motion = find_motion(morse, 1.5, 0.0, mass=1.0, domain=(low, 5.0))
    assert motion.period == pytest.approx(find_motion(morse, 1.5, 0.0, mass=1.0, domain=(0.9, 2.0)).period, rel=1e-11)


@pytest.mark.parametrize("constant", [1e4, 1e6, 1e8, 1e10, 1e12])
def test_a_large_constant_is_found_out_and_soon(constant):
    find = lambda: find_motion(lambda x: x * x + constant, 1.0, 0.0, mass=1.0, domain=(-2.0, 2.0))  # noqa: E731
    if constant <= 1e6:
        assert find().period == pytest.approx(math.pi * math.sqrt(2.0), rel=1e-6)
    else:
        with pytest.raises(InputError, match="a large constant in it hides its shape; change q0 or p0, or subtract the constant"):
            find()


@pytest.mark.parametrize(("domain", "mass"), [((-2.0, 2.0), 1e308), ((-2.0, 2.0), 1e-308), ((-1e308, 1e308), 1.0)])
def test_units_that_overflow_are_refused_with_a_remedy(domain, mass):
    with pytest.raises(InputError, match="choose units in which these, and the mass's inverse, are below 1e"):
        find_motion(lambda x: x * x, 1.0, 0.0, mass=mass, domain=domain)


@pytest.mark.parametrize(
    ("potential", "q0", "pole"),
    [
        (lambda x: -1.0 / np.abs(x + 0.1234), 0.5, -0.1234),  # at a node of every grid that is symmetric about it
        (lambda x: -1.0 / np.abs(x + 0.0321) + x * x, 0.5, -0.0321),
        (lambda x: np.log(np.abs(x - 0.1)), 0.5, 0.1),
        (np.tan, 0.5, -math.pi / 2.0),  # behind which the potential is high: no wall, as the particle would have to go through the pole
        (lambda x: 1.0 / (x - 0.1) + x * x, -0.5, 0.1),
    ],
)
def test_poles_are_refused_with_their_place(potential, q0, pole):
    with pytest.raises(InputError, match="may have a pole; choose a domain without it") as refused:
        find_motion(potential, q0, 0.0, mass=1.0, domain=(-2.0, 2.0))
    assert float(re.search(r"through q = (\S+),", str(refused.value))[1]) == pytest.approx(pole, abs=1e-5)


@pytest.mark.parametrize(
    ("potential", "state", "domain", "period"),
    [
        (np.abs, (0.5, 0.0), (-2.0, 2.0), 4.0),
        (lambda x: np.where(np.abs(x) < 0.5, 0.0, 9.0), (0.0, 2.0), (-2.0, 2.0), 1.0),
        (lambda x: 1.0 / x**2 + x**2, (0.5, 0.0), (0.01, 3.0), math.pi / math.sqrt(2.0)),
    ],
)
def test_kinks_hard_walls_and_poles_upwards_are_no_poles(potential, state, domain, period):
    assert find_motion(potential, *state, mass=1.0, domain=domain).period == pytest.approx(period, rel=1e-8)
