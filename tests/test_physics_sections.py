"""Poincaré sections on motions whose crossings are known, and the divergence of occupancies by hand."""

import numpy as np
import pytest

from neural_hamilton.physics.sections import crossings, occupancy_divergence
from neural_hamilton.physics.systems import get_system
from neural_hamilton.physics.systems.henon_heiles import HenonHeilesHamiltonians

FREQUENCIES, AMPLITUDES, PHASES = np.array([1.3, 0.7]), np.array([0.8, 0.5]), np.array([2.0, 0.4])
BOX = ((0.0, 1.0), (0.0, 1.0))


def oscillators(times):
    """q = A sin(w t + a) in both coordinates, separately: q, p and their rates, (1, T, 2) each."""
    angle = FREQUENCIES * times[..., None] + PHASES
    q, p = AMPLITUDES * np.sin(angle), AMPLITUDES * FREQUENCIES * np.cos(angle)
    return tuple(x.reshape(1, -1, 2) for x in (q, p, p, -(FREQUENCIES**2) * q))


def exact_crossings(axis, value, end):
    """The times up to `end` at which the coordinate rises through `value`."""
    turns = np.arange(20)
    times = (np.arcsin(value / AMPLITUDES[axis]) - PHASES[axis] + 2.0 * np.pi * turns) / FREQUENCIES[axis]
    return times[(times > 0.0) & (times < end)]


@pytest.mark.parametrize(("axis", "value"), [(0, 0.0), (0, 0.3), (1, -0.2)])
def test_crossings_of_separate_oscillators(axis, value):
    times = np.linspace(0.0, 40.0, 4001)
    found = crossings(times, *oscillators(times), axis, value)
    exact = exact_crossings(axis, value, 40.0)
    q, p, _, _ = oscillators(exact)
    assert found.times.size >= 4 and not found.orbit.any()
    np.testing.assert_allclose(found.times, exact, atol=1e-9)
    np.testing.assert_allclose(found.of(0), np.stack([q[0, :, 1 - axis], p[0, :, 1 - axis]], axis=-1), atol=1e-9)


def test_crossings_are_of_fourth_order_in_the_distance_of_times():
    exact, errors = exact_crossings(0, 0.3, 40.0), []
    for count in (201, 401):
        times = np.linspace(0.0, 40.0, count)
        errors.append(np.abs(crossings(times, *oscillators(times), 0, 0.3).times - exact).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.3)


def test_orbits_are_kept_apart_and_each_has_its_plane_and_times():
    times = np.stack([np.linspace(0.0, 40.0, 2001), np.linspace(0.0, 30.0, 2001)])
    orbits = [np.concatenate(parts) for parts in zip(*(oscillators(row) for row in times), strict=True)]
    found = crossings(times, *orbits, 0, np.array([0.0, 0.3]))
    for row, (value, end) in enumerate([(0.0, 40.0), (0.3, 30.0)]):
        np.testing.assert_allclose(found.times[found.orbit == row], exact_crossings(0, value, end), atol=1e-7)
        assert len(found.of(row)) == np.sum(found.orbit == row)


def test_only_upward_crossings_count_and_states_that_are_not_finite_have_none():
    times = np.linspace(0.0, 40.0, 2001)
    q, p, rates_q, rates_p = oscillators(times)
    assert np.all(np.cos(FREQUENCIES[0] * crossings(times, q, p, rates_q, rates_p, 0, 0.0).times + PHASES[0]) > 0.99)
    p[0, 1000:, 1] = np.nan
    assert crossings(times, q, p, rates_q, rates_p, 0, 0.0).times.max() < times[1000]
    assert crossings(times, q, p, rates_q, rates_p, 0, 2.0).times.size == 0


def test_the_section_of_a_regular_orbit_lies_on_a_level_of_its_energy():
    """On x = 0 of Hénon and Heiles, px² is what the energy leaves, so it is positive wherever the orbit crosses."""
    system, one = get_system("henon-heiles"), HenonHeilesHamiltonians(np.ones((1, 1)))
    q0, p0, times = np.array([[0.0, 0.1]]), np.array([[0.35, 0.1]]), np.linspace(0.0, 300.0, 6001)[None]
    q, p = system.solve(one, q0, p0, times)
    found = crossings(times, q, p, *system.rates(one, q, p), 0, 0.0)
    y, py = found.position, found.momentum
    left = 2.0 * one.energy(q0, p0)[0] - py**2 - y**2 + 2.0 / 3.0 * y**3
    assert y.size > 40 and np.all(left > 0.0)
    exact = system.solve(one, q0, p0, found.times[None])
    np.testing.assert_allclose(exact[0][0, :, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(exact[1][0, :, 1], py, atol=1e-6)


def test_divergence_of_occupancies_by_hand():
    corners = np.array([[0.1, 0.1], [0.9, 0.9]])
    assert occupancy_divergence(corners, corners, BOX, bins=2) == 0.0
    assert occupancy_divergence(corners[:1], corners[1:], BOX, bins=2) == pytest.approx(1.0)
    # P = (1, 0), Q = (1/2, 1/2): H(3/4, 1/4) - 1/2
    mixed = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)) - 0.5
    assert occupancy_divergence(corners[:1], corners, BOX, bins=2) == pytest.approx(mixed)
    # outside the box is not the cell beside it
    assert occupancy_divergence(corners[1:], np.array([[1.1, 0.9]]), BOX, bins=2) == pytest.approx(1.0)
    assert occupancy_divergence(corners, corners[:0], BOX) == 1.0
    assert np.isnan(occupancy_divergence(corners[:0], corners[:0], BOX))


def test_two_samples_of_one_distribution_are_apart_by_what_chance_allows():
    samples = np.random.default_rng(0).random((40, 2, 2000, 2))
    divergences = [occupancy_divergence(first, second, BOX, bins=5) for first, second in samples]
    assert np.mean(divergences) == pytest.approx(24 / (4 * 2000 * np.log(2.0)), rel=0.15)
