"""Tensor-product splines against SciPy's, in one to three dimensions."""

import numpy as np
import pytest
from scipy.interpolate import NdBSpline, make_interp_spline

from neural_hamilton.physics.potentials.tensor_splines import TensorSplines, pack_planes, plane_terms

SIZES = [((7,), 3), ((5, 9), 3), ((4, 6, 5), 3), ((6,), 5), ((13, 8), 5), ((6, 7, 9), 5)]


def draw(sizes, degree, seed=0):
    domain = tuple((-1.0 - axis, 2.0) for axis in range(len(sizes)))
    values = np.random.default_rng(seed).normal(size=(3, *sizes))
    return values, domain, TensorSplines.through(values, domain, degree)


@pytest.mark.parametrize(("sizes", "degree"), SIZES, ids=str)
def test_passes_through_its_values(sizes, degree):
    values, domain, splines = draw(sizes, degree)
    axes = [np.linspace(low, high, size) for (low, high), size in zip(domain, sizes, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    np.testing.assert_allclose(splines(np.broadcast_to(grid, (3, *grid.shape))), values, atol=1e-12)


@pytest.mark.parametrize(("sizes", "degree"), SIZES, ids=str)
def test_values_and_slopes_equal_scipy(sizes, degree):
    _, domain, splines = draw(sizes, degree)
    low, high = np.array(domain).T
    places = np.random.default_rng(1).uniform(low, high, size=(3, 20, 2, len(sizes)))
    places[0, 0], places[0, 1] = low, high
    values, slopes = splines(places), splines.gradient(places)
    assert values.shape == places.shape[:-1] and slopes.shape == places.shape
    grids = [np.linspace(*ends, size) for ends, size in zip(domain, sizes, strict=True)]
    knots = tuple(make_interp_spline(grid, grid, k=degree).t for grid in grids)
    for row in range(3):
        theirs = NdBSpline(knots, splines.coefficients[row], degree)
        np.testing.assert_allclose(values[row], theirs(places[row]), rtol=1e-10, atol=1e-10)
        for axis, order in enumerate(np.eye(len(sizes), dtype=int)):
            np.testing.assert_allclose(slopes[row, ..., axis], theirs(places[row], nu=order), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("sizes", "degree"), SIZES, ids=str)
def test_a_line_that_leaves_the_domain_goes_on_along_its_tangent(sizes, degree):
    _, domain, splines = draw(sizes, degree)
    low, high = np.array(domain).T
    start = np.random.default_rng(4).uniform(low, high, size=(3, len(sizes)))
    for end, outwards in ((low, -1.0), (high, 1.0)):
        for axis in range(len(sizes)):
            start[:, axis] = end[axis]
            line = np.repeat(start[:, None], 4, axis=1)
            line[..., axis] += outwards * np.array([0.0, 0.1, 0.5, 3.0])
            slope = splines.gradient(line)[..., axis]
            np.testing.assert_allclose(slope, np.repeat(slope[:, :1], 4, axis=1), rtol=1e-12, atol=1e-12)
            expected = splines(line)[:, :1] + slope * (line[..., axis] - end[axis])
            np.testing.assert_allclose(splines(line), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("degree", [3, 5])
def test_terms_of_packed_planes_are_values_and_slopes(degree):
    _, _, first = draw((8, 11), degree)
    _, _, second = draw((8, 11), degree, seed=1)
    packed, terms = pack_planes([first, second]), np.empty((2, 3))
    places = np.random.default_rng(3).uniform(-2.5, 2.5, size=(3, 50, 2))
    for row, place in np.ndindex(3, 50):
        plane_terms(packed[row], *places[row, place], terms)
        for splines, found in zip((first, second), terms, strict=True):
            np.testing.assert_allclose(found[0], splines(places)[row, place], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(found[1:], splines.gradient(places)[row, place], rtol=1e-12, atol=1e-12)


def test_no_row_depends_on_its_neighbours_and_a_foreign_place_spoils_only_itself():
    _, _, splines = draw((5, 9), 3)
    places = np.random.default_rng(2).uniform(-1.0, 2.0, size=(3, 8, 2))
    together = splines(places)
    for row in range(3):
        assert np.array_equal(splines.take(np.array([row]))(places[row : row + 1])[0], together[row])
    places[1, 3, 0] = np.nan
    spoilt = splines(places)
    assert np.isnan(spoilt[1, 3]) and np.isnan(spoilt).sum() == 1
    assert splines(np.empty((3, 0, 2))).shape == (3, 0)
