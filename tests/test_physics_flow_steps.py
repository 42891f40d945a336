"""Fixed steps along flows: orders of convergence, the one-dimensional methods, energy over long times and reversibility."""

import numpy as np
import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.physics.compiled import compiled
from neural_hamilton.physics.solvers.fixed_step import solve_orbit
from neural_hamilton.physics.solvers.flow_steps import FLOW_METHODS, FLOW_SPLITTINGS, solve_flow_steps
from neural_hamilton.physics.solvers.flows import solve_flow
from neural_hamilton.physics.solvers.tableaux import FIXED_STEP_METHODS
from neural_hamilton.physics.systems import get_system

ORDERS = {"rk4": 4, "gauss-legendre4": 4, "stormer-verlet": 2, "yoshida4": 4}


@compiled()
def pendulum(parameters, y, out):
    out[0], out[1] = y[1], -parameters[0] * np.sin(y[0])


@compiled()
def henon_heiles(parameters, y, out):
    out[0], out[1] = y[2], y[3]
    out[2] = -y[0] - 2.0 * parameters[0] * y[0] * y[1]
    out[3] = -y[1] - parameters[0] * (y[0] ** 2 - y[1] ** 2)


ONE, TIMES = np.ones((2, 1)), np.tile(np.linspace(0.0, 8.0, 9), (2, 1))
STARTS = np.array([[0.1, 0.0, 0.0, 0.3], [0.0, 0.2, 0.35, 0.0]])


@pytest.mark.parametrize("method", FLOW_METHODS)
def test_it_converges_at_its_order(method):
    exact, _ = solve_flow(henon_heiles, ONE, STARTS, TIMES, 1e-13)
    errors = [np.abs(solve_flow_steps(henon_heiles, ONE, STARTS, TIMES, method, step)[0] - exact).max() for step in (0.1, 0.05, 0.025)]
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(rates - ORDERS[method]) < 0.3) and errors[-1] < 1e-3


@pytest.mark.parametrize("method", ["rk4", *FLOW_SPLITTINGS])
def test_a_step_of_one_degree_of_freedom_is_that_of_the_other_solvers(method):
    class Pendulum:
        def gradient(self, q):
            return np.sin(q)

    times = np.linspace(0.0, 5.0, 11)
    q, p, evaluations = solve_orbit(Pendulum(), 1.0, 0.2, times, FIXED_STEP_METHODS[method].tableau, 0.1)
    states, num_evaluations = solve_flow_steps(pendulum, np.ones((1, 1)), np.array([[1.0, 0.2]]), times[None], method, 0.1)
    np.testing.assert_allclose(states[0], np.stack([q, p], axis=-1), atol=1e-13)
    assert num_evaluations[0] == evaluations


@pytest.mark.parametrize("method", [*FLOW_SPLITTINGS, "gauss-legendre4"])
def test_symplectic_methods_keep_the_energy_for_long_and_run_back(method):
    times = np.tile(np.linspace(0.0, 1000.0, 101), (2, 1))
    states, _ = solve_flow_steps(henon_heiles, ONE, STARTS, times, method, 0.1)

    def energy(y):
        return 0.5 * np.square(y).sum(axis=-1) + y[..., 0] ** 2 * y[..., 1] - y[..., 1] ** 3 / 3.0

    drift = np.abs(energy(states) - energy(STARTS)[:, None])
    assert drift[:, 51:].max() < 1.5 * drift[:, 1:51].max() < 3e-3
    there = states[:, 10] * [1.0, 1.0, -1.0, -1.0]
    back, _ = solve_flow_steps(henon_heiles, ONE, there, np.full((2, 1), 100.0), method, 0.1)
    np.testing.assert_allclose(back[:, 0] * [1.0, 1.0, -1.0, -1.0], STARTS, atol=1e-9)


def test_no_orbit_depends_on_its_neighbours_or_on_threads():
    together, _ = solve_flow_steps(henon_heiles, ONE, STARTS, TIMES, "rk4", 0.1, num_threads=2)
    for row in range(2):
        alone, _ = solve_flow_steps(henon_heiles, ONE[:1], STARTS[row : row + 1], TIMES[:1], "rk4", 0.1, num_threads=1)
        assert np.array_equal(alone[0], together[row])


def test_parameters_that_may_not_be_written_to_are_as_good_as_any():
    """Such are those of a system that rebuilds its Hamiltonians from the columns of a file."""
    locked = ONE.copy()
    locked.flags.writeable = False
    for solve, how in ((solve_flow_steps, ("rk4", 0.1)), (solve_flow, (1e-9,))):
        states = [solve(henon_heiles, parameters, STARTS, TIMES, *how)[0] for parameters in (locked, ONE)]
        assert states[0].tobytes() == states[1].tobytes()


def test_an_unknown_method_is_named_with_the_choices():
    with pytest.raises(InputError, match="euler.*rk4, gauss-legendre4, stormer-verlet, yoshida4"):
        solve_flow_steps(henon_heiles, ONE, STARTS, TIMES, "euler", 0.1)


def test_systems_whose_mass_varies_have_no_splittings_among_their_baselines():
    def methods(name):
        return {baseline.method for baseline in get_system(name).baselines([0.1])}

    assert methods("double-pendulum") == {"rk4", "gauss-legendre4", "dop853"}
    assert methods("surface") == methods("henon-heiles") == {"rk4", *FLOW_SPLITTINGS, "dop853"}
