"""Certificates hold: every row is as close to an independent solution as it says."""

import numpy as np
import pytest

from neural_hamilton.physics import (
    CurveBatch,
    CurvePotential,
    Ensemble,
    InputError,
    Rejection,
    Trajectory,
    draw_rows,
    solve_batch,
    solve_certified,
)
from neural_hamilton.physics.solvers.certified import CERTIFYING_METHODS
from neural_hamilton.physics.solvers.reference import solve_control_polygon

CONTROL_Q = np.array([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0])
CONTROL_V = np.array([2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
POTENTIAL = CurvePotential.from_control_points(CONTROL_Q, CONTROL_V)
TIMES = np.linspace(0.0, 2.0, 21)


@pytest.mark.parametrize("integrator", CERTIFYING_METHODS)
@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_certificates_bound_the_error(preset, integrator):
    """Rows from their control polygons alone, solved again by SciPy in the curve's parameter."""
    rows, _ = draw_rows(Ensemble(preset, integrator=integrator), 11, "test", np.arange(25))
    for row in range(0, 25, 3):
        q, p = solve_control_polygon(*rows.polygon(row), rows.q0[row], rows.p0[row], rows.times[row])
        error = max(np.abs(rows.q[row] - q).max(), np.abs(rows.p[row] - p).max())
        assert rows.integration_error[row] <= 1e-9
        assert error <= rows.integration_error[row] + 1e-10


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_certificates_bound_the_error_where_orbits_are_touchy(method):
    """Energy near that of a barrier: errors grow exponentially while the particle lingers on top."""
    control_q, control_v = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]), np.array([2.0, -1.0, 1.0, 1.5, 1.0, -1.0, 2.0])
    potential = CurvePotential.from_control_points(control_q, control_v)
    top = float(potential.value(np.array(0.5)))
    for below in (1e-1, 1e-2, 1e-3, -1e-3):
        p0 = float(np.sqrt(2 * (top - below - potential.value(np.array(0.2)))))
        row = solve_certified(potential, 0.2, p0, TIMES, method=method)
        assert isinstance(row, Trajectory)
        q, p = solve_control_polygon(control_q, control_v, 0.2, p0, TIMES)
        assert max(np.abs(row.q - q).max(), np.abs(row.p - p).max()) <= row.integration_error + 1e-10


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
@pytest.mark.parametrize("samples", [11, 12], ids=["at a knot", "within a piece"])
def test_a_particle_at_rest_in_equilibrium_stays(method, samples):
    potential = CurvePotential.from_samples(8.0 * (np.linspace(0, 1, samples) - 0.5) ** 2)
    row = solve_certified(potential, 0.5, 0.0, TIMES, method=method)
    assert isinstance(row, Trajectory)
    np.testing.assert_allclose(row.q, 0.5, atol=1e-14)
    np.testing.assert_allclose(row.p, 0.0, atol=1e-13)


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_harmonic_motion_is_exact(method):
    """A cubic spline holds a parabola exactly, so the closed form is the truth of its 40 pieces too."""
    potential = CurvePotential.from_samples(8.0 * (np.linspace(0, 1, 41) - 0.5) ** 2)
    row = solve_certified(potential, 0.0, 0.0, TIMES, method=method)
    assert isinstance(row, Trajectory)
    np.testing.assert_allclose(row.q, 0.5 - 0.5 * np.cos(4 * TIMES), atol=1e-10, rtol=0)
    np.testing.assert_allclose(row.p, 2.0 * np.sin(4 * TIMES), atol=1e-10, rtol=0)


@pytest.mark.parametrize("beyond", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 0.0, -1e-8, -1e-4])
def test_an_orbit_that_turns_just_beyond_a_knot(beyond):
    """It leaves its piece and is back within one step; the series must be cut there and not run on."""
    knot = float(POTENTIAL.knots_q[2])
    q0 = knot + beyond  # at rest: the orbit comes back to turn here
    row = solve_certified(POTENTIAL, q0, 0.0, TIMES)
    assert isinstance(row, Trajectory)
    q, p = solve_control_polygon(CONTROL_Q, CONTROL_V, q0, 0.0, TIMES)
    assert max(np.abs(row.q - q).max(), np.abs(row.p - p).max()) <= row.integration_error + 1e-10


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_impossible_tolerance_is_not_certified(method):
    assert solve_certified(POTENTIAL, 0.3, 0.2, TIMES, tolerance=1e-30, method=method) is Rejection.NOT_CERTIFIED


def test_a_batch_without_certificates_is_as_accurate_as_asked():
    rows, _ = draw_rows(Ensemble("phase-space"), 11, "test", np.arange(60))
    for tolerance in (1e-4, 1e-7, 1e-10):
        q, p = solve_batch(rows.curves, rows.q0, rows.p0, rows.times, tolerance=tolerance)
        error = np.maximum(np.abs(q - rows.q).max(axis=1), np.abs(p - rows.p).max(axis=1))
        assert np.median(error) < 0.2 * tolerance
        assert error.max() < 20 * tolerance, "an orbit near a barrier magnifies its errors, but not without end"
    free = CurveBatch.stack([CurvePotential.from_samples(np.full(8, 2.0))])
    assert np.isnan(solve_batch(free, np.array([0.5]), np.array([1.0]), TIMES[None])[0]).all()


def test_unknown_method_is_refused():
    with pytest.raises(InputError, match=r"taylor, rk4, dop853; 'euler'"):
        solve_certified(POTENTIAL, 0.3, 0.2, TIMES, method="euler")


def test_too_deep_or_too_high_is_out_of_range():
    for height in (-30.0, 30.0):
        potential = CurvePotential.from_control_points([0.0, 0.3, 0.5, 0.7, 1.0], [2.0, height, height, height, 2.0])
        assert solve_certified(potential, 0.0, 0.0, TIMES) is Rejection.POTENTIAL_OUT_OF_RANGE


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
@pytest.mark.parametrize("p0", [1.0, -1.0, 4.0])
def test_an_orbit_that_leaves_the_walls_is_out_of_range(method, p0):
    free = CurvePotential.from_samples(np.full(8, 2.0))
    assert solve_certified(free, 0.5, p0, TIMES, method=method) is Rejection.POSITION_OUT_OF_RANGE
    assert solve_certified(POTENTIAL, 0.5, p0 + np.sign(p0) * 2.0, TIMES, method=method) is Rejection.POSITION_OUT_OF_RANGE


def test_a_looser_tolerance_costs_accuracy_no_more_than_it_says():
    loose, tight = (solve_certified(POTENTIAL, 0.3, 0.2, TIMES, tolerance=tolerance) for tolerance in (1e-5, 1e-11))
    assert isinstance(loose, Trajectory)
    assert isinstance(tight, Trajectory)
    assert tight.integration_error < loose.integration_error <= 1e-5
    assert np.abs(loose.q - tight.q).max() <= loose.integration_error
