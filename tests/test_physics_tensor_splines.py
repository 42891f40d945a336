"""Tensor-product splines against SciPy's, in one to three dimensions."""

import numpy as np
import pytest
from scipy.interpolate import NdBSpline

from neural_hamilton.physics.potentials.tensor_splines import TensorSplines

SIZES = [(7,), (5, 9), (4, 6, 5)]


def draw(sizes, seed=0):
    domain = tuple((-1.0 - axis, 2.0) for axis in range(len(sizes)))
    values = np.random.default_rng(seed).normal(size=(3, *sizes))
    return values, domain, TensorSplines.through(values, domain)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_passes_through_its_values(sizes):
    values, domain, splines = draw(sizes)
    axes = [np.linspace(low, high, size) for (low, high), size in zip(domain, sizes, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    np.testing.assert_allclose(splines(np.broadcast_to(grid, (3, *grid.shape))), values, atol=1e-13)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_slopes_equal_scipy_inside_and_beyond_the_ends(sizes):
    _, domain, splines = draw(sizes)
    low, high = np.array(domain).T
    places = np.random.default_rng(1).uniform(low - 0.3, high + 0.3, size=(3, 20, 2, len(sizes)))
    places[0, 0], places[0, 1] = low, high
    values, slopes = splines(places), splines.gradient(places)
    assert values.shape == places.shape[:-1] and slopes.shape == places.shape
    for row in range(3):
        theirs = NdBSpline(splines.knots, splines.coefficients[row], 3)
        np.testing.assert_allclose(values[row], theirs(places[row]), rtol=1e-11, atol=1e-11)
        for axis, order in enumerate(np.eye(len(sizes), dtype=int)):
            np.testing.assert_allclose(slopes[row, ..., axis], theirs(places[row], nu=order), rtol=1e-11, atol=1e-11)


def test_no_row_depends_on_its_neighbours_and_a_foreign_place_spoils_only_itself():
    _, _, splines = draw((5, 9))
    places = np.random.default_rng(2).uniform(-1.0, 2.0, size=(3, 8, 2))
    together = splines(places)
    for row in range(3):
        assert np.array_equal(splines.take(np.array([row]))(places[row : row + 1])[0], together[row])
    places[1, 3, 0] = np.nan
    spoilt = splines(places)
    assert np.isnan(spoilt[1, 3]) and np.isnan(spoilt).sum() == 1
    assert splines(np.empty((3, 0, 2))).shape == (3, 0)
