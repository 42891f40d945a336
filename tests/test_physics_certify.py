"""Certificates hold: every row is as close to an independent solution as it says."""

from types import SimpleNamespace

import numpy as np
import pytest
from well_helpers import draw, polygon

from neural_hamilton.physics import Curves, InputError, Rejection, certify, solve
from neural_hamilton.physics.solvers import CERTIFYING_METHODS
from neural_hamilton.physics.solvers.reference import solve_control_polygon

CONTROL_Q = np.array([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0])
CONTROL_V = np.array([2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
POTENTIAL = Curves.from_control_points(CONTROL_Q, CONTROL_V)
TIMES = np.linspace(0.0, 2.0, 21)
WELL = {"domain": (0.0, 1.0), "largest_potential": 10.0}


def certify_one(curve, q0, p0, times, **options):
    """Of one orbit: its states (T,) and certificate, or the reason why there is none."""
    found = certify(curve, np.array([q0]), np.array([p0]), times, energy_scale=np.ones(1), **WELL, **options)
    return found.rejection[0] or SimpleNamespace(q=found.q[0], p=found.p[0], integration_error=found.integration_error[0])


@pytest.mark.parametrize("integrator", CERTIFYING_METHODS)
@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_certificates_bound_the_error(preset, integrator):
    """Rows from their control polygons alone, solved again by SciPy in the curve's parameter."""
    rows = draw(preset, 11, "test", np.arange(25), method=integrator)
    for row in range(0, 25, 3):
        q, p = solve_control_polygon(*polygon(rows, row), rows.q0[row], rows.p0[row], rows.times[row])
        error = max(np.abs(rows.q[row] - q).max(), np.abs(rows.p[row] - p).max())
        assert rows.integration_error[row] <= 1e-9
        assert error <= rows.integration_error[row] + 1e-10


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_certificates_bound_the_error_where_orbits_are_touchy(method):
    """Energy near that of a barrier: errors grow exponentially while the particle lingers on top."""
    control_q, control_v = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]), np.array([2.0, -1.0, 1.0, 1.5, 1.0, -1.0, 2.0])
    potential = Curves.from_control_points(control_q, control_v)
    top = float(potential.value(np.array(0.5)))
    for below in (1e-1, 1e-2, 1e-3, -1e-3):
        p0 = float(np.sqrt(2 * (top - below - potential.value(np.array(0.2)))))
        row = certify_one(potential, 0.2, p0, TIMES, method=method)
        assert not isinstance(row, Rejection)
        q, p = solve_control_polygon(control_q, control_v, 0.2, p0, TIMES)
        assert max(np.abs(row.q - q).max(), np.abs(row.p - p).max()) <= row.integration_error + 1e-10


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
@pytest.mark.parametrize("samples", [11, 12], ids=["at a knot", "within a piece"])
def test_a_particle_at_rest_in_equilibrium_stays(method, samples):
    potential = Curves.from_samples(8.0 * (np.linspace(0, 1, samples) - 0.5) ** 2)
    row = certify_one(potential, 0.5, 0.0, TIMES, method=method)
    assert not isinstance(row, Rejection)
    np.testing.assert_allclose(row.q, 0.5, atol=1e-14)
    np.testing.assert_allclose(row.p, 0.0, atol=1e-13)


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_harmonic_motion_is_exact(method):
    """A cubic spline holds a parabola exactly, so the closed form is the truth of its 40 pieces too."""
    potential = Curves.from_samples(8.0 * (np.linspace(0, 1, 41) - 0.5) ** 2)
    row = certify_one(potential, 0.0, 0.0, TIMES, method=method)
    assert not isinstance(row, Rejection)
    np.testing.assert_allclose(row.q, 0.5 - 0.5 * np.cos(4 * TIMES), atol=1e-10, rtol=0)
    np.testing.assert_allclose(row.p, 2.0 * np.sin(4 * TIMES), atol=1e-10, rtol=0)


@pytest.mark.parametrize("beyond", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 0.0, -1e-8, -1e-4])
def test_an_orbit_that_turns_just_beyond_a_knot(beyond):
    """It leaves its piece and is back within one step; the series must be cut there and not run on."""
    knot = float(POTENTIAL.poly_q[0, 1, 0])
    q0 = knot + beyond  # at rest: the orbit comes back to turn here
    row = certify_one(POTENTIAL, q0, 0.0, TIMES)
    assert not isinstance(row, Rejection)
    q, p = solve_control_polygon(CONTROL_Q, CONTROL_V, q0, 0.0, TIMES)
    assert max(np.abs(row.q - q).max(), np.abs(row.p - p).max()) <= row.integration_error + 1e-10


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_impossible_tolerance_is_not_certified(method):
    assert certify_one(POTENTIAL, 0.3, 0.2, TIMES, tolerance=1e-30, method=method) is Rejection.NOT_CERTIFIED


def test_a_batch_without_certificates_is_as_accurate_as_asked():
    rows = draw("phase-space", 11, "test", np.arange(60))
    for tolerance in (1e-4, 1e-7, 1e-10):
        q, p, _ = solve(rows.hamiltonians.curves, rows.q0, rows.p0, rows.times, method="taylor", tolerance=tolerance)
        error = np.maximum(np.abs(q - rows.q).max(axis=1), np.abs(p - rows.p).max(axis=1))
        assert np.median(error) < 0.2 * tolerance
        assert error.max() < 20 * tolerance, "an orbit near a barrier magnifies its errors, but not without end"
    free = Curves.from_samples(np.full(8, 2.0))
    assert np.isnan(solve(free, 0.5, 1.0, TIMES, method="taylor").q).all()


def test_unknown_method_is_refused():
    with pytest.raises(InputError, match=r"'euler'; .*taylor, dop853, rk4"):
        certify_one(POTENTIAL, 0.3, 0.2, TIMES, method="euler")


def test_too_deep_or_too_high_is_out_of_range():
    for height in (-30.0, 30.0):
        potential = Curves.from_control_points([0.0, 0.3, 0.5, 0.7, 1.0], [2.0, height, height, height, 2.0])
        assert certify_one(potential, 0.0, 0.0, TIMES) is Rejection.POTENTIAL_OUT_OF_RANGE


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
@pytest.mark.parametrize("p0", [1.0, -1.0, 4.0])
def test_an_orbit_that_leaves_the_walls_is_out_of_range(method, p0):
    free = Curves.from_samples(np.full(8, 2.0))
    assert certify_one(free, 0.5, p0, TIMES, method=method) is Rejection.POSITION_OUT_OF_RANGE
    assert certify_one(POTENTIAL, 0.5, p0 + np.sign(p0) * 2.0, TIMES, method=method) is Rejection.POSITION_OUT_OF_RANGE


def test_a_looser_tolerance_costs_accuracy_no_more_than_it_says():
    loose, tight = (certify_one(POTENTIAL, 0.3, 0.2, TIMES, tolerance=tolerance) for tolerance in (1e-5, 1e-11))
    assert not isinstance(loose, Rejection)
    assert not isinstance(tight, Rejection)
    assert tight.integration_error < loose.integration_error <= 1e-5
    assert np.abs(loose.q - tight.q).max() <= loose.integration_error


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads_change_nothing_in_series(threads):
    rows = draw("phase-space", 11, "test", np.arange(130))
    found = solve(rows.hamiltonians.curves, rows.q0, rows.p0, rows.times, method="taylor", tolerance=1e-7, num_threads=threads)
    for b in (0, 63, 64, 129):
        alone = solve(rows.hamiltonians.curves[b], rows.q0[b], rows.p0[b], rows.times[b], method="taylor", tolerance=1e-7)
        np.testing.assert_array_equal([found.q[b], found.p[b]], [alone.q, alone.p])


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_the_drift_has_the_unit_that_is_given(method):
    starts = (np.array([0.3, 0.3]), np.array([0.2, 0.2]))
    found = certify(POTENTIAL.take(np.zeros(2, dtype=int)), *starts, TIMES, energy_scale=np.array([1.0, 4.0]), method=method, **WELL)
    assert 0.0 < found.energy_drift[0] == 4.0 * found.energy_drift[1]


@pytest.mark.parametrize("method", CERTIFYING_METHODS)
def test_a_domain_of_another_width(method):
    """V(q) on [-3, 5] is the unit well stretched eightfold: the same orbit, at an eighth of the speed."""
    values = 8.0 * (np.linspace(0, 1, 41) - 0.5) ** 2
    curve = Curves.from_samples(values, domain=(-3.0, 5.0))
    found = certify(curve, np.array([-3.0]), np.zeros(1), 8.0 * TIMES, energy_scale=np.ones(1), domain=(-3.0, 5.0), method=method)
    assert found.rejection == [None]
    np.testing.assert_allclose(found.q[0], 1.0 - 4.0 * np.cos(4 * TIMES), atol=1e-9, rtol=0)


def test_what_does_not_fit_is_refused():
    one = np.zeros(1)
    with pytest.raises(InputError, match="curves are 1 and energy_scale has shape"):
        certify(POTENTIAL, np.zeros(2), np.zeros(2), TIMES, energy_scale=np.ones(2), **WELL)
    with pytest.raises(InputError, match="curves are 1 and energy_scale has shape"):
        certify(POTENTIAL, one, one, TIMES, energy_scale=np.ones(2), **WELL)
    with pytest.raises(InputError, match="sorted"):
        certify(POTENTIAL, one, one, TIMES[::-1], energy_scale=np.ones(1), **WELL)
