"""The Hénon–Heiles family: its section, its exact cases, and where it is chaotic."""

import numpy as np
import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import draw_rows, get_system, own_columns
from neural_hamilton.physics.systems.base import Names
from neural_hamilton.physics.systems.henon_heiles import HenonHeilesHamiltonians, OnSection

SYSTEM = get_system("henon-heiles")
NUM_ROWS = 400
STRATA = np.array([(0.2, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 0.98)])


@pytest.fixture(scope="module")
def rows():
    return draw_rows(SYSTEM, OnSection(), 0, "train", np.arange(NUM_ROWS))[0]


def test_rows_start_on_the_section_with_the_energy_of_their_stratum(rows):
    assert not rows.q0[:, 0].any() and np.all(rows.p0[:, 0] >= 0.0)
    share = rows.energy * 6.0 * rows.coupling**2
    assert np.all((share >= STRATA[rows.stratum, 0] - 1e-12) & (share < STRATA[rows.stratum, 1] + 1e-12))
    assert rows.integration_error.max() <= 1e-9 and rows.energy_drift.max() < 1e-8
    radius = 1.0 / rows.coupling  # the saddle points are the corners of a triangle in this circle
    assert np.all(np.linalg.norm(rows.q, axis=-1).max(axis=1) < radius)


def test_starts_reach_both_ends_of_the_section(rows):
    """The ends are where V(0, y) is the energy: from close to them hardly any momentum is left."""
    assert np.linalg.norm(rows.p0, axis=1).min() < 0.1
    potential = 0.5 * rows.q0[:, 1] ** 2 - rows.coupling * rows.q0[:, 1] ** 3 / 3.0
    np.testing.assert_allclose(potential + 0.5 * (rows.p0**2).sum(axis=1), rows.energy, atol=1e-14)


def test_motion_is_that_of_an_independent_solver(rows):
    chosen = np.arange(0, NUM_ROWS, 101)
    own = {name: values[chosen] for name, values in own_columns(rows.columns, SYSTEM).items()}
    q, p = SYSTEM.reference(own, rows.q0[chosen], rows.p0[chosen], rows.times[chosen])
    error = np.maximum(np.abs(q - rows.q[chosen]), np.abs(p - rows.p[chosen])).max(axis=(1, 2))
    assert np.all(error <= rows.integration_error[chosen])


def test_named_cases_are_met():
    times = np.linspace(0.0, SYSTEM.horizon, 50)
    for case in SYSTEM.named_cases(None):
        solved = SYSTEM.certify(case.hamiltonian, np.array([case.q0]), np.array([case.p0]), times[None], method="dop853", tolerance=1e-9)
        for states, exact in zip((solved.q, solved.p), case.truth(times), strict=True):
            np.testing.assert_allclose(states[0], exact, atol=1e-9)
    assert SYSTEM.named_cases(((0.0, 0.0), (0.0, 0.1))) == []


def test_high_energies_are_chaotic_and_low_ones_are_not():
    """Over 500 units of time neighbours part exponentially, or in proportion to time: log(500) / 500 = 0.012."""
    rows, _ = draw_rows(SYSTEM, OnSection(coupling=(1.0, 1.0)), 1, "test", np.arange(160))
    ends = np.full((160, 1), 500.0)
    exponents = SYSTEM.measure(rows.hamiltonians, rows.q0, rows.p0, ends)["lyapunov"]
    medians = [np.median(exponents[rows.stratum == stratum]) for stratum in range(4)]
    assert medians[0] < 0.015 and medians[3] > 0.05
    assert (exponents[rows.stratum == 0] > 0.03).mean() < 0.05 and (exponents[rows.stratum == 3] > 0.03).mean() > 0.7


def test_the_gradient_is_that_of_the_energy(rows):
    q, p, h = rows.q[:20, 0], rows.p[:20, 0], 1e-6
    some = rows.hamiltonians.take(np.arange(20))
    by_q, by_p = some.gradient(q, p)
    for axis in range(2):
        shift = h * np.eye(2)[axis]
        np.testing.assert_allclose(by_q[:, axis], (some.energy(q + shift, p) - some.energy(q - shift, p)) / (2 * h), atol=1e-8)
        np.testing.assert_allclose(by_p[:, axis], (some.energy(q, p + shift) - some.energy(q, p - shift)) / (2 * h), atol=1e-8)


def test_what_is_refused():
    with pytest.raises(InputError, match="coupling"):
        OnSection(coupling=(0.1, 0.2))
    one = HenonHeilesHamiltonians(np.ones((1, 1)))
    with pytest.raises(InputError, match="can escape"):
        SYSTEM.check_initial_state(one, np.array([[0.0, 0.0]]), np.array([[0.6, 0.0]]), (Names(),))
