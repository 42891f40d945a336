"""The fit of the prior: curves found again from float32 sensors, noise, and the Jacobian against differences."""

from functools import partial

import numpy as np
import pytest
from well_helpers import draw_polygons

from neural_hamilton.physics import Curves, InputError
from neural_hamilton.physics.potentials.curves import clamped_basis
from neural_hamilton.physics.systems import Draws
from neural_hamilton.physics.systems.well import prior_fit
from neural_hamilton.physics.systems.well.polygons import abscissa_cells

FINE = np.linspace(0.0, 1.0, 1001)
fit_prior = partial(prior_fit.fit_prior, wall_height=2.0)
NUM_ROWS = 120


def problem(num_sensors, noise=0.0, preset="paper"):
    """Rows of a dataset: the exact V (N, 1001), the sensors as a network sees them (N, S), and b (N,)."""
    rows = np.arange(NUM_ROWS)
    drawn = draw_polygons(preset, 11, "test", rows)
    curves = Curves.from_control_points(drawn["control_q"], drawn["control_v"], drawn["num_control"])
    values = curves.sample(np.linspace(0.0, 1.0, num_sensors)) + noise * Draws(11, "test", rows).noise(num_sensors)
    return curves.sample(FINE), values.astype(np.float32), drawn["num_control"] - 2


def errors(curves, exact):
    return np.abs(curves.sample(FINE) - exact).max(axis=1)


@pytest.mark.parametrize("num_sensors", [100, 50, 25])
@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_curves_are_found_again(preset, num_sensors):
    exact, values, num_inner = problem(num_sensors, preset=preset)
    fit = fit_prior(values)
    assert fit.explained.all()
    assert fit.residual.max() < 6e-8  # half a unit of float32's last place below 2
    assert errors(fit.curves, exact).max() < 1e-6
    # A curve of seven interior points may be one of two, three or four with knots inserted, and so as good.
    assert np.mean(fit.num_inner == num_inner) > 0.97


@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_too_few_sensors_are_made_the_most_of(preset):
    exact, values, num_inner = problem(13, preset=preset)
    fit = fit_prior(values)
    found = errors(fit.curves, exact)
    decided = 2 * num_inner < 11
    assert np.mean(found[decided] < 1e-5) > 0.98
    interpolated = errors(Curves.from_samples(values, "cubic"), exact)
    assert np.mean(found[~decided]) < 0.75 * np.mean(interpolated[~decided])
    assert np.mean(fit.num_inner[~decided] > 5) > 0.98


@pytest.mark.parametrize(("num_sensors", "noise"), [(100, 1e-2), (100, 1e-3), (25, 1e-2), (25, 1e-3)])
def test_noise_is_averaged_out(num_sensors, noise):
    exact, values, num_inner = problem(num_sensors, noise)
    fit = fit_prior(values, noise=noise)
    assert np.mean(fit.explained) > 0.98
    found = errors(fit.curves, exact)
    for kind in ("cubic", "pchip"):
        interpolated = errors(Curves.from_samples(values, kind), exact)
        assert np.mean(found < interpolated) > 0.9
        assert np.median(found) < 0.6 * np.median(interpolated)
    assert np.mean(fit.num_inner > num_inner) < 0.1


def test_exact_sensors_and_other_numbers_of_control_points():
    low, high = abscissa_cells(9)
    control_q = np.concatenate([[0.0], low + np.tile([0.2, 0.9, 0.4], 3) * (high - low), [1.0]])
    control_v = np.array([2.0, 0.3, -0.5, 1.0, 0.2, 0.8, -1.0, 0.4, 0.0, 1.2, 2.0])
    exact = Curves.from_control_points(control_q, control_v)
    fit = fit_prior(exact.value(np.linspace(0.0, 1.0, 60))[None], control_points=(2, 10))
    assert fit.num_inner[0] == 9
    np.testing.assert_allclose(fit.curves[0].value(FINE), exact.value(FINE), rtol=0, atol=1e-7)


def test_what_is_no_curve_of_the_prior_is_told():
    q = np.linspace(0.0, 1.0, 50)
    fit = fit_prior(np.stack([8.0 * (q - 0.5) ** 2, 2.0 - np.sin(12.0 * np.pi * q) ** 2]))
    np.testing.assert_array_equal(fit.explained, [True, False])
    np.testing.assert_allclose(fit.curves[0].value(FINE), 8.0 * (FINE - 0.5) ** 2, rtol=0, atol=1e-6)
    assert fit.residual[0] < 1e-7 < 1e-3 < fit.residual[1]


@pytest.mark.parametrize("noise", [0.0, 1e-2])
def test_neither_batch_nor_threads_change_a_bit(noise):
    values = problem(25, noise)[1]
    one, two = (fit_prior(values, noise=noise, num_threads=n) for n in (1, 2))
    assert one.residual.tobytes() == two.residual.tobytes()
    assert one.curves.poly_v.tobytes() == two.curves.poly_v.tobytes()
    for row in range(0, NUM_ROWS, 10):
        alone = fit_prior(values[row : row + 1], noise=noise)
        assert alone.residual[0] == one.residual[row] and alone.num_inner[0] == one.num_inner[row]
        assert alone.curves[0].poly_q.tobytes() == one.curves[row].poly_q.tobytes()
        assert alone.curves[0].poly_v.tobytes() == one.curves[row].poly_v.tobytes()


@pytest.mark.parametrize("b", [2, 3, 5, 7])
def test_linearisation_equals_differences(b):
    rng = np.random.default_rng(b)
    sensors, precision = np.linspace(0.0, 1.0, 30), 7.0
    low, high = abscissa_cells(b)
    x = np.concatenate([rng.uniform(low, high), rng.normal(size=b)])
    values, mean, prior = rng.normal(size=30), rng.normal(size=2 * b), rng.uniform(1.0, 9.0, size=2 * b)

    def residuals(x):
        potential = Curves.from_control_points(np.r_[0.0, x[:b], 1.0], np.r_[2.0, x[b:], 2.0])
        return np.concatenate([np.sqrt(precision) * (potential.value(sensors) - values), np.sqrt(prior) * (x - mean)])

    jacobian = np.stack([(residuals(x + dx) - residuals(x - dx)) / 2e-6 for dx in 1e-6 * np.eye(2 * b)], axis=1)
    basis = np.stack([clamped_basis(b + 2)[m, :, m : m + 4] for m in range(b - 1)])
    normal, gradient = np.empty((2 * b, 2 * b)), np.empty(2 * b)
    cost = prior_fit._linearise(basis, 2.0, mean, prior, sensors, values, precision, x, normal, gradient)
    assert cost == pytest.approx(np.sum(residuals(x) ** 2), rel=1e-13)
    np.testing.assert_allclose(gradient, jacobian.T @ residuals(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.tril(normal), np.tril(jacobian.T @ jacobian), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("most", [7, 12])
def test_cells_are_where_ensembles_draw(most):
    drawn = draw_polygons("paper", 0, "train", np.arange(5000), control_points=(2, most))
    for b in range(2, most + 1):
        drawn_q = drawn["control_q"][drawn["num_control"] == b + 2, 1 : b + 1]
        low, high = abscissa_cells(b)
        assert np.all((drawn_q >= low) & (drawn_q <= high))
        np.testing.assert_allclose(drawn_q.min(axis=0), low, rtol=0, atol=0.03 / b)
        np.testing.assert_allclose(drawn_q.max(axis=0), high, rtol=0, atol=0.03 / b)


def test_no_rows_are_no_curves():
    assert len(fit_prior(np.empty((0, 50))).curves) == 0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(50), {}, "values"),
        (np.ones((2, 3)), {}, "S >= 4"),
        (np.full((1, 50), np.inf), {}, "finite"),
        (np.ones((1, 50)), {"noise": -1.0}, "noise is -1.0"),
        (np.ones((1, 50)), {"noise": np.nan}, "noise is nan"),
        (np.ones((1, 50)), {"control_points": (1, 4)}, "control_points"),
        (np.ones((1, 50)), {"control_points": (5, 4)}, "control_points"),
    ],
)
def test_wrong_input_is_refused(values, options, message):
    with pytest.raises(InputError, match=message):
        fit_prior(values, **options)


@pytest.mark.parametrize(("num_sensors", "noise"), [(100, 0.0), (25, 0.0), (13, 0.0), (100, 1e-2)])
def test_samples_explain_the_sensors_and_are_as_far_apart_as_the_fit_is_off(num_sensors, noise):
    exact, values, _ = problem(num_sensors, noise)
    fit, curves, explains = prior_fit.sample_prior(values, wall_height=2.0, noise=noise, count=16)
    np.testing.assert_array_equal(fit.curves.poly_v, fit_prior(values, noise=noise).curves.poly_v)
    assert explains.mean() > 0.98 and explains.any(axis=1).all()
    samples = curves.sample(FINE).reshape(NUM_ROWS, 16, -1)
    away = np.where(explains, np.abs(samples - fit.curves.sample(FINE)[:, None]).max(axis=2), 0.0).max(axis=1)
    off = errors(fit.curves, exact)
    assert np.mean(off > 3.0 * away + 1e-6) < 0.01
    assert np.median(away) < 30.0 * np.median(off) + 1e-5  # nor are they just anything


def test_samples_of_a_row_depend_on_no_other():
    _, values, _ = problem(13)
    _, together, explains = prior_fit.sample_prior(values, wall_height=2.0, count=3)
    for row in (0, 70):
        _, alone, explained = prior_fit.sample_prior(values[row : row + 1], wall_height=2.0, count=3)
        own = slice(3 * row, 3 * row + 3)
        np.testing.assert_array_equal(together.sample(FINE)[own], alone.sample(FINE))
        np.testing.assert_array_equal(explains[row], explained[0])
