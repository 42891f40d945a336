"""Splittings on splines in the plane: against the general solver, independence of queries, and the adjoint against differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_hamilton.physics.potentials.tensor_splines import TensorSplines
from neural_hamilton.physics.solvers.flow_steps import solve_flow_steps
from neural_hamilton.physics.solvers.spline_splittings import get_splitting, pull_back, solve_splines
from neural_hamilton.physics.systems.generic import SplineHamiltonians

DOMAIN = ((0.0, 1.0), (-1.0, 1.0))


def bowl(rows=3, size=9, degree=5, seed=0):
    """Wells with bumps, and initial states (R, 4) in them."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, size), np.linspace(-1, 1, size), indexing="ij")
    values = 6 * (x - 0.5) ** 2 + 2 * y**2 + 0.2 * rng.normal(size=(rows, size, size))
    initial = np.concatenate([rng.uniform(0.3, 0.7, (rows, 1)), rng.uniform(-0.4, 0.4, (rows, 3))], axis=1)
    return TensorSplines.through(values, DOMAIN, degree), initial


@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("method", ["stormer-verlet", "yoshida4"])
def test_it_takes_the_steps_of_the_general_solver(method, degree):
    splines, initial = bowl(degree=degree)
    times = np.tile(np.arange(0, 41) * 0.05, (3, 1))
    states = solve_splines(splines.coefficients, DOMAIN, degree, initial, times, get_splitting(method, 0.05))
    hamiltonians = SplineHamiltonians(splines)
    expected, _ = solve_flow_steps(hamiltonians.flow, hamiltonians.packed, initial, times, method, 0.05)
    np.testing.assert_allclose(states, expected, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_a_state_depends_on_no_other_query(order, count):
    splines, initial = bowl()
    times = np.random.default_rng(1).uniform(0.0, 3.0, (3, 12))
    splitting = get_splitting("yoshida4", 0.1)
    whole = solve_splines(splines.coefficients, DOMAIN, 5, initial, times, splitting)
    chosen = list(order)[:count]
    some = solve_splines(splines.coefficients, DOMAIN, 5, initial, times[:, chosen], splitting)
    assert np.array_equal(some, whole[:, chosen])


def test_springs_keep_a_fast_particle_near_the_domain():
    splines, _ = bowl()
    initial = np.tile([0.5, 0.0, 4.0, -5.0], (3, 1))
    times = np.tile(np.linspace(0.0, 20.0, 400), (3, 1))
    states = solve_splines(splines.coefficients, DOMAIN, 5, initial, times, get_splitting("yoshida4", 0.002))
    assert states[..., 0].min() > -0.5 and states[..., 0].max() < 1.5 and np.abs(states[..., 1]).max() < 1.5
    fast = np.hypot(states[..., 2], states[..., 3]).max(axis=1)
    assert np.all(fast < 8.0)


@pytest.mark.parametrize(("degree", "speed"), [(3, 0.0), (5, 0.0), (5, 4.0)], ids=["cubic", "quintic", "beyond the domain"])
@pytest.mark.parametrize("method", ["stormer-verlet", "yoshida4"])
def test_the_adjoint_is_the_derivative(method, degree, speed):
    splines, initial = bowl(rows=2, degree=degree)
    initial[:, 2] += speed
    rng = np.random.default_rng(2)
    times, weights = rng.uniform(0.0, 0.6, (2, 7)), rng.normal(size=(2, 7, 4))
    splitting = get_splitting(method, 0.02)

    def loss(coefficients, start, queries):
        return (solve_splines(coefficients, DOMAIN, degree, start, queries, splitting) * weights).sum()

    point = (splines.coefficients, initial, times)
    found = pull_back(splines.coefficients, DOMAIN, degree, initial, times, splitting, weights)
    for argument, gradient in enumerate(found):
        for _ in range(6):
            direction = rng.normal(size=gradient.shape)
            ends = []
            for sign in (1.0, -1.0):
                moved = list(point)
                moved[argument] = point[argument] + sign * 1e-6 * direction
                ends.append(loss(*moved))
            assert (gradient * direction).sum() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=2e-5, abs=1e-6)
