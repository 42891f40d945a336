"""The compiled curve potential against SciPy's B-spline and Brent's root finder, which share no code with it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline, CubicSpline
from scipy.optimize import brentq

from neural_hamilton.physics import Curves, InputError

gaps = st.floats(0.05, 1.0)
heights = st.floats(-2.0, 2.0)


@st.composite
def polygons(draw):
    n = draw(st.integers(4, 12))
    widths = np.array(draw(st.lists(gaps, min_size=n - 1, max_size=n - 1)))
    control_q = np.concatenate([[0.0], np.cumsum(widths)])
    control_v = np.array(draw(st.lists(heights, min_size=n, max_size=n)))
    return control_q / control_q[-1], control_v


def scipy_splines(control_q, control_v):
    n = len(control_q)
    knots = np.concatenate([np.zeros(3), np.linspace(0.0, n - 3.0, n - 2), np.full(3, n - 3.0)])
    return BSpline(knots, control_q, 3), BSpline(knots, control_v, 3), n - 3.0


@given(polygons(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_equals_scipy(polygon, positions):
    spline_q, spline_v, end = scipy_splines(*polygon)
    potential = Curves.from_control_points(*polygon)
    q = np.array(positions)
    s = np.array([brentq(lambda s, x=x: float(spline_q(s)) - x, 0.0, end, xtol=1e-15, rtol=1e-15) if 0.0 < x < 1.0 else end * x for x in q])
    slope_q, slope_v = spline_q(s, 1), spline_v(s, 1)
    gradient = slope_v / slope_q
    # A root can be no better than the rounding of q: V and V' inherit it through their own slopes.
    curvature = (spline_v(s, 2) - gradient * spline_q(s, 2)) / slope_q**2
    assert np.all(np.abs(potential.value(q) - spline_v(s)) <= 1e-12 + 1e-15 * np.abs(gradient))
    assert np.all(np.abs(potential.gradient(q) - gradient) <= 1e-12 * (1 + np.abs(gradient)) + 2e-15 * np.abs(curvature) / slope_q)


@given(polygons())
def test_extrema_bound_and_touch_a_dense_sample(polygon):
    _, spline_v, end = scipy_splines(*polygon)
    sample = spline_v(np.linspace(0.0, end, 20_001))
    lowest, highest = Curves.from_control_points(*polygon).extrema()
    assert sample.min() - 1e-5 <= lowest <= sample.min() + 1e-13
    assert sample.max() - 1e-13 <= highest <= sample.max() + 1e-5


@pytest.mark.parametrize(
    ("values", "extrema"),
    [
        (lambda q: np.full_like(q, 2.0), (2.0, 2.0)),
        (lambda q: 3.0 - q, (2.0, 3.0)),
        (lambda q: 8.0 * (q - 0.5) ** 2, (0.0, 2.0)),
        (lambda q: (q - 0.51) ** 2, (0.0, 0.51**2)),
        (lambda q: q * (q - 0.3) * (q - 1.0), (-0.0847531, 0.0192717)),
    ],
)
def test_extrema_of_polynomials(values, extrema):
    q = np.linspace(0.0, 1.0, 11)
    found = tuple(float(bound[0]) for bound in Curves.from_samples(values(q)).extrema())
    fine = values(np.linspace(0.0, 1.0, 1_000_001))
    assert found == pytest.approx((fine.min(), fine.max()), abs=1e-11)
    assert found == pytest.approx(extrema, abs=1e-6)


def test_samples_give_scipys_not_a_knot_spline():
    q = np.linspace(0.0, 1.0, 100)
    v = 2.0 + np.sin(7.0 * q) * q * (1 - q)
    spline, fine = CubicSpline(q, v), np.linspace(0.0, 1.0, 1003)
    potential = Curves.from_samples(v)
    np.testing.assert_allclose(potential.value(fine), spline(fine), atol=1e-13)
    np.testing.assert_allclose(potential.gradient(fine), spline(fine, 1), atol=1e-11)


@pytest.mark.parametrize("wall", [0.0, 1.0])
def test_continuation_beyond_a_wall_is_thrice_differentiable(wall):
    control_q, control_v = np.array([0.0, 0.1, 0.35, 0.6, 0.8, 1.0]), np.array([2.0, -1.0, 0.5, -0.3, 1.0, 2.0])
    potential = Curves.from_control_points(control_q, control_v)
    h = 1e-3 * np.arange(1, 5)
    outside, inside = (wall - h, wall + h) if wall == 0.0 else (wall + h, wall - h)
    # Outside, V is a cubic; if that is the Taylor polynomial at the wall, it departs from the curve as h^4.
    outer_cubic = np.polynomial.Polynomial.fit(outside, potential.value(outside), 3)
    departure = np.abs(outer_cubic(inside) - potential.value(inside))
    assert np.polyfit(np.log(h), np.log(departure), 1)[0] == pytest.approx(4.0, abs=0.1)
    assert potential.value(np.array(wall)) == pytest.approx(2.0, abs=1e-14)


def test_shapes_are_kept():
    potential = Curves.from_samples([2.0, 0.0, 0.0, 2.0])
    assert potential.value(np.zeros((2, 3))).shape == (2, 3)
    assert potential.gradient(np.array(0.5)).shape == ()


@pytest.mark.parametrize(
    ("q", "v"),
    [
        ([0, 0.5, 1], [2, 0, 2]),
        ([0, 0.5, 0.7, 1], [2, 0, 2]),
        ([0, 0.7, 0.5, 1], [2, 0, 0, 2]),
        ([0, 0.5, 0.5, 1], [2, 0, 0, 2]),
        ([0, 0.5, np.nan, 1], [2, 0, 0, 2]),
        ([0, 0.3, 0.5, 1], [2, np.inf, 0, 2]),
        ([[[0, 0.3, 0.5, 1]]], [[[2, 0, 0, 2]]]),
        ([0, 1], [2, 2]),
    ],
)
def test_bad_polygons_are_refused(q, v):
    with pytest.raises(InputError, match="control polygon"):
        Curves.from_control_points(q, v)


class TestBatches:
    polygons = (
        ([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0], [2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0]),
        ([0.0, 0.3, 0.6, 1.0], [2.0, -1.0, 1.0, 2.0]),
        ([0.0, 0.2, 0.5, 0.7, 1.0], [2.0, -1.0, 1.0, -0.5, 2.0]),
    )
    singles = tuple(Curves.from_control_points(*polygon) for polygon in polygons)

    def padded(self):
        control = np.full((2, 3, 7), np.nan)  # what is beyond a polygon does not count
        for row, polygon in enumerate(self.polygons):
            control[:, row, : len(polygon[0])] = polygon
        return Curves.from_control_points(control[0], control[1], np.array([7, 4, 5]))

    def test_padding_and_joining_change_no_bit(self):
        for batch in (self.padded(), Curves.join(self.singles)):
            assert len(batch) == 3 and batch.num_pieces.tolist() == [4, 1, 2]
            for together, alone in zip(batch, self.singles, strict=True):
                assert together.poly_q.tobytes() == alone.poly_q.tobytes()
                assert together.poly_v.tobytes() == alone.poly_v.tobytes()

    @pytest.mark.parametrize("name", ["value", "gradient", "curvature"])
    def test_each_row_is_evaluated_on_its_own_curve(self, name):
        q = np.random.default_rng(0).uniform(-0.2, 1.2, (3, 2, 5))
        found = getattr(Curves.join(self.singles), name)(q)
        for row in range(3):
            np.testing.assert_array_equal(found[row], getattr(self.singles[row], name)(q[row]))

    def test_one_position_a_curve(self):
        batch, q = Curves.join(self.singles), np.array([0.3, -0.1, 1.0])
        np.testing.assert_allclose(batch.value(q), batch.value(q[:, None])[:, 0], rtol=0, atol=1e-14)
        piece, u = batch.locate(np.array([0.3, 0.4, 0.9]))
        pieces = batch.poly_q[np.arange(3), piece]
        np.testing.assert_allclose([np.polynomial.Polynomial(c)(x) for c, x in zip(pieces, u, strict=True)], [0.3, 0.4, 0.9], atol=1e-15)

    def test_samples_and_bounds(self):
        batch, q = Curves.join(self.singles), np.linspace(0.0, 1.0, 41)
        np.testing.assert_allclose(batch.sample(q), [single.value(q) for single in self.singles], rtol=0, atol=1e-14)
        np.testing.assert_array_equal(np.stack(batch.extrema(), axis=1), [np.ravel(single.extrema()) for single in self.singles])

    def test_take_and_index(self):
        batch = Curves.join(self.singles)
        assert batch.take(np.array([2, 0, 2])).num_pieces.tolist() == [2, 4, 2]
        assert batch[-1].poly_v.tobytes() == self.singles[-1].poly_v.tobytes()
        assert len(batch.take(np.arange(0))) == 0
        with pytest.raises(IndexError):
            batch[3]

    @pytest.mark.parametrize("q", [0.5, np.zeros(2), np.zeros((2, 3))])
    def test_positions_that_do_not_fit_are_refused(self, q):
        with pytest.raises(InputError, match="give 3 curves positions"):
            Curves.join(self.singles).value(q)

    def test_a_nan_stays_one(self):
        assert np.isnan(Curves.join(self.singles).value(np.full((3, 2), np.nan))).all()
