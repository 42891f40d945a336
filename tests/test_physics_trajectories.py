"""Certificates hold: every row is as close to an independent solution as it says."""

import numpy as np
import pytest

from neural_hamilton.physics import CurvePotential, Ensemble, Rejection, Trajectory, draw_problem, solve_certified
from neural_hamilton.physics.reference import solve_control_polygon

POTENTIAL = CurvePotential.from_control_points([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0], [2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
TIMES = np.linspace(0.0, 2.0, 21)


@pytest.mark.parametrize("integrator", ["rk4", "dop853"])
@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_certificates_bound_the_error(preset, integrator):
    ensemble = Ensemble(preset, integrator=integrator)
    for index in range(8):
        row, _ = draw_problem(ensemble, 11, "test", 3 * index)
        q, p = solve_control_polygon(row.control_q, row.control_v, row.q0, row.p0, row.trajectory.times)
        error = max(np.abs(row.trajectory.q - q).max(), np.abs(row.trajectory.p - p).max())
        assert row.trajectory.integration_error <= 1e-9
        assert error <= row.trajectory.integration_error + 1e-10


def test_certificates_bound_the_error_where_orbits_are_touchy():
    """Energy near that of a barrier: errors grow exponentially while the particle lingers on top."""
    control_q, control_v = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]), np.array([2.0, -1.0, 1.0, 1.5, 1.0, -1.0, 2.0])
    potential = CurvePotential.from_control_points(control_q, control_v)
    top = float(potential.value(np.array(0.5)))
    for below in (1e-1, 1e-2, 1e-3, -1e-3):
        p0 = float(np.sqrt(2 * (top - below - potential.value(np.array(0.2)))))
        row = solve_certified(potential, 0.2, p0, TIMES)
        assert isinstance(row, Trajectory)
        q, p = solve_control_polygon(control_q, control_v, 0.2, p0, TIMES)
        assert max(np.abs(row.q - q).max(), np.abs(row.p - p).max()) <= row.integration_error + 1e-10


def test_a_particle_at_rest_in_equilibrium_stays():
    potential = CurvePotential.from_samples(8.0 * (np.linspace(0, 1, 11) - 0.5) ** 2)
    row = solve_certified(potential, 0.5, 0.0, TIMES)
    assert isinstance(row, Trajectory)
    np.testing.assert_allclose(row.q, 0.5, atol=1e-15)
    np.testing.assert_allclose(row.p, 0.0, atol=1e-13)


def test_impossible_tolerance_is_not_certified():
    assert solve_certified(POTENTIAL, 0.3, 0.2, TIMES, tolerance=1e-30, method="dop853") is Rejection.NOT_CERTIFIED


def test_too_deep_or_too_high_is_out_of_range():
    for height in (-30.0, 30.0):
        potential = CurvePotential.from_control_points([0.0, 0.3, 0.5, 0.7, 1.0], [2.0, height, height, height, 2.0])
        assert solve_certified(potential, 0.0, 0.0, TIMES) is Rejection.POTENTIAL_OUT_OF_RANGE


def test_an_orbit_far_beyond_the_walls_is_out_of_range():
    free = CurvePotential.from_samples(np.full(8, 2.0))
    assert solve_certified(free, 0.5, 1.0, TIMES) is Rejection.POSITION_OUT_OF_RANGE


def test_a_looser_tolerance_costs_accuracy_no_more_than_it_says():
    loose, tight = (solve_certified(POTENTIAL, 0.3, 0.2, TIMES, tolerance=tolerance) for tolerance in (1e-5, 1e-11))
    assert isinstance(loose, Trajectory)
    assert isinstance(tight, Trajectory)
    assert tight.integration_error < loose.integration_error <= 1e-5
    assert np.abs(loose.q - tight.q).max() <= loose.integration_error
