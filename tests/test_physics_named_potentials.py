"""The textbook potentials: walls, slopes, and closed-form motions."""

import numpy as np
import pytest

from neural_hamilton.physics import NAMED_POTENTIALS
from neural_hamilton.physics.reference import solve_smooth

TIMES = np.linspace(0.0, 2.0, 101)


@pytest.fixture(params=sorted(NAMED_POTENTIALS))
def potential(request):
    return NAMED_POTENTIALS[request.param]


def kinks(potential):
    """Positions where V' jumps, found from the outside."""
    q = np.linspace(0.0, 1.0, 100_001)
    return q[1:][np.abs(np.diff(potential.gradient(q))) > 0.1]


def test_walls_are_two_high(potential):
    np.testing.assert_allclose(potential.value(np.array([0.0, 1.0])), 2.0, atol=1e-13)


def test_the_name_is_the_key(potential):
    assert NAMED_POTENTIALS[potential.name] is potential


def test_gradient_is_the_slope(potential):
    q, h = np.random.default_rng(0).uniform(0.0, 1.0, 200), 1e-6
    q = q[[np.abs(kinks(potential) - x).min(initial=1.0) > 1e-3 for x in q]]
    slope = (potential.value(q + h) - potential.value(q - h)) / (2 * h)
    np.testing.assert_allclose(potential.gradient(q), slope, atol=1e-7, rtol=1e-7)


def test_the_particle_stays_inside(potential):
    inner = potential.value(np.linspace(0.0, 1.0, 1001)[1:-1])
    assert inner.max() < 2.0


def test_truth_starts_at_rest_and_conserves_energy(potential):
    q, p = potential.truth(TIMES)
    assert (q[0], p[0]) == (0.0, 0.0)
    assert np.abs(0.5 * p**2 + potential.value(q) - 2.0).max() < 1e-11


def test_truth_moves_as_its_momentum_says(potential):
    h = 1e-5
    times = TIMES[1:-1]
    before, after = potential.truth(np.concatenate([[0.0], times - h]))[0][1:], potential.truth(np.concatenate([[0.0], times + h]))[0][1:]
    np.testing.assert_allclose(potential.truth(TIMES)[1][1:-1], (after - before) / (2 * h), atol=1e-4)


def test_closed_forms_agree_with_dop853_where_smooth(potential):
    if potential.motion is None:
        pytest.skip("no closed form")
    times = TIMES[TIMES > 0]
    q, p = potential.motion(times)
    # Up to the first kink met the field is smooth, and so is the solution.
    met = np.concatenate([np.flatnonzero(q > kink) for kink in kinks(potential)]) if kinks(potential).size else np.array([times.size])
    smooth = slice(0, int(met.min()))
    assert times[smooth].size >= 10
    reference_q, reference_p = solve_smooth(potential, 0.0, 0.0, times[smooth])
    np.testing.assert_allclose(q[smooth], reference_q, atol=1e-12)
    np.testing.assert_allclose(p[smooth], reference_p, atol=1e-12)


def test_free_fall_is_two_parabolas_there_and_back():
    q, p = NAMED_POTENTIALS["mirrored-free-fall"].truth(np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]))
    np.testing.assert_allclose(q, [0.0, 0.125, 0.5, 0.875, 1.0, 0.5, 0.0], atol=1e-15)
    np.testing.assert_allclose(p, [0.0, 1.0, 2.0, 1.0, 0.0, -2.0, 0.0], atol=1e-15)
