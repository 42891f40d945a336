"""Surfaces on which the motion is known: against certified motion, and by what each of them conserves."""

import numpy as np
import pytest

from neural_hamilton.physics.systems import get_system
from neural_hamilton.physics.systems.base import Names

SURFACE = get_system("surface")
CASES = {case.name: case for case in SURFACE.named_cases(None)}
TIMES = np.linspace(0.0, SURFACE.horizon, 60)


def one(states):
    return np.array([states])


@pytest.mark.parametrize("name", CASES)
def test_the_truth_is_certified_motion(name):
    case = CASES[name]
    solved = SURFACE.certify(case.hamiltonian, one(case.q0), one(case.p0), TIMES[None], method="dop853", tolerance=1e-9)
    assert solved.rejection == [None]
    for states, exact in zip((solved.q, solved.p), case.truth(TIMES), strict=True):
        np.testing.assert_allclose(states[0], exact, atol=2e-9)


@pytest.mark.parametrize("name", CASES)
def test_each_satisfies_what_surfaces_must(name):
    """V = 2 on the whole rim and no higher inside, a particle that cannot cross it, and the depth as the scale of energy."""
    case = CASES[name]
    grid = case.hamiltonian.sense((41, 41))
    SURFACE.check_potential(grid, (Names(),))
    SURFACE.check_initial_state(case.hamiltonian, one(case.q0), one(case.p0), (Names(),))
    values = grid["potential"][0]
    rim = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    np.testing.assert_allclose(rim, 2.0, atol=1e-12)
    assert values.max() <= 2.0 and SURFACE.energy_scale(case.hamiltonian)[0] == pytest.approx(2.0 - values.min(), rel=1e-9)


def test_the_separable_one_is_two_oscillators():
    """The energy of each coordinate is conserved alone, and their sum is that of the surface."""
    case = CASES["separable"]
    q, p = case.truth(TIMES)
    x = q - 0.5
    parts = 0.5 * p**2 + 2.5 * (x / [0.5, 0.35]) ** 2
    np.testing.assert_allclose(parts, np.tile(parts[0], (TIMES.size, 1)), rtol=1e-12)
    np.testing.assert_allclose(case.hamiltonian.energy(q[None], p[None])[0], parts.sum(axis=1) + 2.0 - 2.5, rtol=1e-12)


def test_the_central_one_keeps_its_angular_momentum_and_its_radial_energy():
    case = CASES["central"]
    q, p = case.truth(TIMES)
    arm = q - 0.5
    r, turning = np.hypot(*arm.T), arm[:, 0] * p[:, 1] - arm[:, 1] * p[:, 0]
    np.testing.assert_allclose(turning, turning[0], rtol=1e-12)
    radial = 0.5 * (np.sum(arm * p, axis=1) / r) ** 2 + 0.5 * (turning / r) ** 2 + 2.0 - 3.0 * (1.0 - 4.0 * r**2) ** 2
    np.testing.assert_allclose(radial, radial[0], rtol=1e-11)
    assert r.max() > 1.5 * r.min()  # no circle
    angle = np.unwrap(np.arctan2(*arm.T[::-1]))
    rate = turning / r**2
    trapezia = 0.5 * (rate[1:] + rate[:-1]) * np.diff(TIMES)
    np.testing.assert_allclose(angle[1:] - angle[0], np.cumsum(trapezia), atol=0.02)


def test_the_truth_is_the_same_at_other_times():
    """Also where the first time is not zero and the times are far apart."""
    for case in CASES.values():
        for states, some in zip(case.truth(TIMES), case.truth(TIMES[[13, 14, 55]]), strict=True):
            np.testing.assert_allclose(states[[13, 14, 55]], some, atol=1e-12)


@pytest.mark.parametrize("name", ["separable", "central"])
def test_gradient_of_a_bowl(name):
    bowl, h = CASES[name].hamiltonian, 1e-6
    q = np.random.default_rng(0).uniform(0.02, 0.98, (1, 50, 2))
    by_q, by_p = bowl.gradient(q, q)
    np.testing.assert_array_equal(by_p, q)
    for axis in range(2):
        shift = h * np.eye(2)[axis]
        np.testing.assert_allclose(by_q[..., axis], (bowl.potential(q + shift) - bowl.potential(q - shift)) / (2 * h), atol=1e-7)


def test_straight_orbits_stay_straight():
    assert np.all(CASES["axis"].truth(TIMES)[0][:, 0] == 0.5)
    q, p = CASES["diagonal"].truth(TIMES)
    assert np.all(q[:, 0] == q[:, 1]) and np.all(p[:, 0] == p[:, 1]) and np.ptp(q) > 0.4
    assert SURFACE.named_cases(((0.5, 0.5), (0.0, 0.0))) == []
