"""The compiled solver for any flow, against SciPy's and exact solutions."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from neural_hamilton.physics.compiled import compiled
from neural_hamilton.physics.solvers.flows import certify_flow, solve_flow


@compiled()
def oscillator(parameters, y, out):
    out[0], out[1] = y[1], -parameters[0] * y[0]


@compiled()
def henon_heiles(parameters, y, out):
    out[0], out[1] = y[2], y[3]
    out[2] = -y[0] - 2.0 * parameters[0] * y[0] * y[1]
    out[3] = -y[1] - parameters[0] * (y[0] ** 2 - y[1] ** 2)


@compiled()
def explosion(parameters, y, out):
    out[0] = parameters[0] * y[0] * y[0]


TIMES = np.tile(np.concatenate([[0.0], np.sort(np.random.default_rng(0).uniform(0.0, 20.0, 50))]), (3, 1))
STARTS = np.array([[0.1, 0.0, 0.0, 0.3], [0.0, 0.2, 0.4, 0.0], [0.0, -0.1, 0.3, 0.3]])
ONE = np.ones((3, 1))


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9, 1e-12])
def test_it_is_scipys_step_for_step(tolerance):
    states, num_evaluations = solve_flow(henon_heiles, ONE, STARTS, TIMES, tolerance)
    for row in range(3):

        def rates(_, y):
            out = np.empty(4)
            henon_heiles(np.ones(1), y, out)
            return out

        scipy = solve_ivp(rates, (0.0, TIMES[row, -1]), STARTS[row], "DOP853", t_eval=TIMES[row], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(states[row], scipy.y.T, atol=1e-10)
        assert abs(num_evaluations[row] - scipy.nfev) <= 16 + 3 * scipy.nfev / 12  # SciPy interpolates in every step


def test_certificates_bound_the_error_of_an_exact_solution():
    stiffness = np.array([[1.0], [9.0], [100.0]])
    start = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]])
    states, error = certify_flow(oscillator, stiffness, start, TIMES, 1e-9)
    w = np.sqrt(stiffness)
    exact = start[:, :1] * np.cos(w * TIMES) + start[:, 1:] / w * np.sin(w * TIMES)
    assert np.all(error <= 1e-9) and np.all(np.abs(states[:, :, 0] - exact).max(axis=1) <= error / 3)


def test_what_chaos_amplifies_beyond_rounding_has_no_certificate():
    times = np.tile(np.linspace(0.0, 2000.0, 5), (3, 1))
    _, error = certify_flow(henon_heiles, ONE, np.array([[0.0, 0.0, 0.5, 0.28], [0.05, 0.0, 0.0, 0.0], [0.0, 0.1, 0.48, 0.3]]), times, 1e-9)
    assert error[1] <= 1e-9 and max(error[0], error[2]) > 1e-9


def test_rows_do_not_depend_on_their_neighbours_or_on_threads():
    together, _ = solve_flow(henon_heiles, np.ones((90, 1)), np.tile(STARTS, (30, 1)), np.tile(TIMES, (30, 1)), 1e-9, num_threads=2)
    alone, _ = solve_flow(henon_heiles, ONE[:1], STARTS[:1], TIMES[:1], 1e-9, num_threads=1)
    assert together[::3].tobytes() == np.tile(alone, (30, 1, 1)).tobytes()


def test_a_solution_that_ends_is_nan_from_there():
    states, _ = solve_flow(explosion, np.ones((1, 1)), np.ones((1, 1)), np.array([[0.0, 0.5, 0.9, 1.1, 2.0]]), 1e-9)
    np.testing.assert_allclose(states[0, :3, 0], [1.0, 2.0, 10.0], rtol=1e-7)
    assert np.isnan(states[0, 3:]).all()
    _, error = certify_flow(explosion, np.ones((1, 1)), np.ones((1, 1)), np.array([[0.0, 0.5, 1.1]]), 1e-9)
    assert np.isinf(error[0])


def test_times_at_zero_only():
    states, count = solve_flow(oscillator, ONE, np.ones((3, 2)), np.zeros((3, 2)), 1e-9)
    assert np.all(states == 1.0) and not count.any()
