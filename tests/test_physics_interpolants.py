"""Interpolants of sensors against SciPy's own, and their orders of convergence."""

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline, CubicSpline, PchipInterpolator, make_interp_spline
from well_helpers import draw_polygons

from neural_hamilton.physics import Curves, InputError
from neural_hamilton.physics.potentials.interpolants import INTERPOLANTS

KINDS = list(INTERPOLANTS)


def smooth(q):
    return 2.0 - 3.0 * np.sin(np.pi * q) ** 2 + 0.4 * np.sin(9.0 * q) * q * (1.0 - q)


def parabolic_slopes(q, v):
    """By fitting the parabolas."""
    firsts = np.clip(np.arange(q.size) - 1, 0, q.size - 3)
    return [np.polynomial.Polynomial.fit(q[i : i + 3], v[i : i + 3], 2).deriv()(at) for i, at in zip(firsts, q, strict=True)]


SCIPY = {
    "cubic": CubicSpline,
    "hermite": lambda q, v: CubicHermiteSpline(q, v, parabolic_slopes(q, v)),
    "pchip": PchipInterpolator,
    "quintic": lambda q, v: make_interp_spline(q, v, k=5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_scipy(kind):
    q, fine = np.linspace(0.0, 1.0, 40), np.linspace(0.0, 1.0, 1003)
    values = np.stack([smooth(q), smooth(q) ** 2, np.abs(q - 0.4)])
    potentials = Curves.from_samples(values, kind)
    assert len(potentials) == 3
    for potential, v in zip(potentials, values, strict=True):
        spline = SCIPY[kind](q, v)
        # The quintic is given by cubics on eighths of its cells; the kink of abs is the hardest for them.
        value_error, slope_error = (3e-6, 2e-3) if kind == "quintic" else (1e-13, 1e-11)
        np.testing.assert_allclose(potential.value(fine), spline(fine), rtol=0, atol=value_error)
        np.testing.assert_allclose(potential.gradient(fine), spline(fine, 1), rtol=0, atol=slope_error)
        np.testing.assert_allclose(potential.value(q), v, rtol=0, atol=1e-13)


def test_a_single_row_may_be_a_vector():
    v = smooth(np.linspace(0.0, 1.0, 50))
    np.testing.assert_array_equal(Curves.from_samples(v).poly_v, Curves.from_samples(v[None], "cubic").poly_v)


@pytest.mark.parametrize("kind", KINDS)
def test_on_another_domain(kind):
    """The pieces in u are those of the unit domain: only q(u) is stretched, and slopes with it."""
    values = smooth(np.linspace(0.0, 1.0, 40))
    unit, wide = Curves.from_samples(values, kind), Curves.from_samples(values, kind, (-3.0, 5.0))
    q = np.linspace(0.0, 1.0, 201)
    np.testing.assert_allclose(wide.value(8.0 * q - 3.0), unit.value(q), rtol=0, atol=1e-12)
    np.testing.assert_allclose(8.0 * wide.gradient(8.0 * q - 3.0), unit.gradient(q), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(kind):
    values = np.random.default_rng(0).normal(size=(7, 30))
    together = Curves.from_samples(values, kind)
    for row in range(7):
        alone = Curves.from_samples(values[row : row + 1], kind)
        assert alone.poly_q.tobytes() == together.poly_q[row].tobytes() and alone.poly_v.tobytes() == together.poly_v[row].tobytes()


@pytest.mark.parametrize(("kind", "degree"), [("cubic", 3), ("hermite", 2), ("pchip", 1), ("quintic", 5)])
def test_polynomials_are_exact(kind, degree):
    polynomial = np.polynomial.Polynomial([2.0, -3.0, 1.0, 4.0, -5.0, 3.0][: degree + 1])
    q, fine = np.linspace(0.0, 1.0, 40), np.linspace(0.0, 1.0, 1003)
    potential = Curves.from_samples(polynomial(q), kind)
    # Of a quintic, the cubics on eighths of a cell miss h^4 max abs(V'''') / (384 8^4) = 5e-11 at h = 1 / 39.
    np.testing.assert_allclose(potential.value(fine), polynomial(fine), rtol=0, atol=1e-10 if kind == "quintic" else 1e-13)


@pytest.mark.parametrize(("kind", "order"), [("cubic", 4), ("hermite", 3), ("pchip", 2), ("quintic", 6)])
def test_order_of_convergence(kind, order):
    sizes, fine = np.array([20, 40, 80, 160]), np.linspace(0.0, 1.0, 5001)
    sensors = [np.sin(11.0 * np.linspace(0.0, 1.0, size)) for size in sizes]
    errors = [np.abs(Curves.from_samples(v, kind).value(fine) - np.sin(11.0 * fine)).max() for v in sensors]
    assert -np.polyfit(np.log(sizes - 1), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("num_sensors", [100, 25])
@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_cubics_stand_for_the_quintic(preset, num_sensors):
    """On curves of the ensembles the quintic errs by much more than its cubics depart from it."""
    drawn = draw_polygons(preset, 5, "test", np.arange(200))
    exact = Curves.from_control_points(drawn["control_q"], drawn["control_v"], drawn["num_control"])
    q, fine = np.linspace(0.0, 1.0, num_sensors), np.linspace(0.0, 1.0, 32 * (num_sensors - 1) + 1)
    values = exact.sample(q)
    quintic = make_interp_spline(q, values, k=5, axis=1)(fine)
    departure = np.abs(Curves.from_samples(values, "quintic").sample(fine) - quintic).max(axis=1)
    error = np.abs(quintic - exact.sample(fine)).max(axis=1)
    assert np.median(departure / error) < 3e-4
    assert np.all(departure < 0.05 * error + 2e-7)


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match=r"'linear'.*cubic, hermite, pchip, quintic"):
        Curves.from_samples(np.zeros((2, 10)), "linear")
    for kind, (least_sensors, _) in INTERPOLANTS.items():
        assert len(Curves.from_samples(np.ones((2, least_sensors)), kind)) == 2
        assert len(Curves.from_samples(np.ones((0, least_sensors)), kind)) == 0
        for values in (np.ones((2, least_sensors - 1)), np.ones((2, 3, 10)), np.full((1, 10), np.nan)):
            with pytest.raises(InputError, match=f"S >= {least_sensors} sensors for '{kind}'"):
                Curves.from_samples(values, kind)
