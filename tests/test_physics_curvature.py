"""V, V' and V'' of a curve against the same B-spline in 40 digits: de Boor's recursion and bisection by mpmath."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_hamilton.physics import Curves

DIGITS = 40


def basis_function(knots, i, degree, s):
    """N_{i, degree}(s) by the Cox - de Boor recursion, right-continuous, and closed at the last knot."""
    if degree == 0:
        return mpmath.mpf(int(knots[i] <= s < knots[i + 1] or (s == knots[-1] and knots[i] < knots[i + 1] == s)))
    total = mpmath.mpf(0)
    for left, right, j, sign in ((knots[i], knots[i + degree], i, 1), (knots[i + 1], knots[i + degree + 1], i + 1, -1)):
        if right > left:
            share = (s - left) / (right - left) if sign > 0 else (right - s) / (right - left)
            total += share * basis_function(knots, j, degree - 1, s)
    return total


def spline(knots, control, s, derivative=0, degree=3):
    """The spline or its derivative, whose control points are the scaled differences."""
    control = list(control)
    for k in range(derivative):
        d = degree - k
        control = [d * (control[i + 1] - control[i]) / (knots[i + 1 + d + k] - knots[i + 1 + k]) for i in range(len(control) - 1)]
    inner = knots[derivative : len(knots) - derivative]
    return mpmath.fsum(c * basis_function(inner, i, degree - derivative, s) for i, c in enumerate(control))


def exact(control_q, control_v, q):
    """(V, V', V'') at q in `DIGITS` digits, for float64 control points taken at face value."""
    with mpmath.workdps(DIGITS):
        control_q, control_v = ([mpmath.mpf(float(x)) for x in c] for c in (control_q, control_v))
        n = len(control_q)
        knots = [mpmath.mpf(k) for k in [0, 0, 0, *range(n - 2), n - 3, n - 3, n - 3]]
        low, high = mpmath.mpf(0), mpmath.mpf(n - 3)
        for _ in range(100):
            middle = (low + high) / 2
            if spline(knots, control_q, middle) < q:
                low = middle
            else:
                high = middle
        s = (low + high) / 2
        q1, q2 = (spline(knots, control_q, s, k) for k in (1, 2))
        v0, v1, v2 = (spline(knots, control_v, s, k) for k in (0, 1, 2))
        slope = v1 / q1
        return np.array([v0, slope, (v2 - slope * q2) / q1**2], dtype=np.float64)


@st.composite
def polygons(draw):
    """The control polygons of the ensembles: abscissae at least 0.05 apart from each other and the walls."""
    n = draw(st.integers(2, 7))
    inner = [(j + draw(st.floats(0.2, 0.8))) / n for j in range(n)]
    heights = draw(st.lists(st.floats(-2.0, 2.0), min_size=n, max_size=n))
    return np.array([0.0, *inner, 1.0]), np.array([2.0, *heights, 2.0])


@settings(max_examples=25)
@given(polygons(), st.floats(0.0, 1.0))
def test_to_rounding_of_the_curve_itself(polygon, q):
    potential = Curves.from_control_points(*polygon)
    found = np.array([potential.value(np.array(q)), potential.gradient(np.array(q)), potential.curvature(np.array(q))])
    expected = exact(*polygon, q)
    # V'' jumps nowhere but V''' does: next to a wall or a knot q itself, of one ulp, moves V'' by V''' 1e-16.
    scale = np.maximum(1.0, np.abs(np.array([2.0, expected[1], np.abs(potential.curvature(np.linspace(0, 1, 101))).max()])))
    assert np.all(np.abs(found - expected) <= 1e-12 * scale)


@given(polygons())
def test_curvature_is_the_slope_of_the_gradient(polygon):
    potential = Curves.from_control_points(*polygon)
    q, h = np.linspace(0.0105, 0.9895, 41), 1e-6
    slope = (potential.gradient(q + h) - potential.gradient(q - h)) / (2 * h)
    np.testing.assert_allclose(potential.curvature(q), slope, rtol=1e-3, atol=1e-3 * np.abs(slope).max())


def test_curvature_is_continuous_at_knots():
    potential = Curves.from_control_points([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0], [2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
    knots = potential.poly_q[0, 1:, 0]
    left, right = potential.curvature(np.nextafter(knots, -1.0)), potential.curvature(knots)
    np.testing.assert_allclose(left, right, rtol=1e-12)


def test_curvature_of_a_cubic_and_beyond_the_walls():
    q = np.linspace(0.0, 1.0, 9)
    potential = Curves.from_samples(1 - 3 * q + 5 * q**2 - 2 * q**3)
    x = np.array([[-0.1, 0.0, 0.3], [0.77, 1.0, 1.2]])
    np.testing.assert_allclose(potential.curvature(x), 10 - 12 * x, atol=1e-10)
    assert potential.curvature(np.array(0.5)) == pytest.approx(4.0)
