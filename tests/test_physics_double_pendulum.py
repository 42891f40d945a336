"""The double pendulum: its Hamiltonian against Lagrange's equations, its certified motion, and its small oscillations."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from neural_hamilton.physics import InputError
from neural_hamilton.physics.diagnostics import jacobian_by_differences
from neural_hamilton.physics.systems import draw_rows, get_system, own_columns
from neural_hamilton.physics.systems.double_pendulum import DoublePendulums, RandomPendulums

SYSTEM = get_system("double-pendulum")
NUM_ROWS = 200


@pytest.fixture(scope="module")
def rows():
    return draw_rows(SYSTEM, RandomPendulums(), 0, "train", np.arange(NUM_ROWS))[0]


def lagrange(mass, length):
    """The textbook equations for the angles and their velocities, of upper mass, upper length and gravity 1."""

    def slope(_, state):
        t1, t2, w1, w2 = state
        d, total = t1 - t2, 1.0 + mass
        shared = 2.0 * total - mass - mass * np.cos(2.0 * d)
        a1 = -(1.0 + total) * np.sin(t1) - mass * np.sin(t1 - 2.0 * t2)
        a1 = (a1 - 2.0 * np.sin(d) * mass * (w2**2 * length + w1**2 * np.cos(d))) / shared
        a2 = 2.0 * np.sin(d) * (w1**2 * total + total * np.cos(t1) + w2**2 * length * mass * np.cos(d)) / (length * shared)
        return [w1, w2, a1, a2]

    return slope


def test_motion_is_that_of_lagranges_equations(rows):
    for row in range(0, NUM_ROWS, 19):
        one = rows.hamiltonians.take(np.array([row]))
        _, velocity = one.gradient(rows.q0[[row]], rows.p0[[row]])
        start = [*rows.q0[row], *velocity[0]]
        solved = solve_ivp(
            lagrange(rows.mass[row], rows.length[row]), (0, 10), start, "DOP853", t_eval=rows.times[row], rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(solved.y[:2].T, rows.q[row], atol=1e-7)


def test_certificates(rows):
    assert rows.integration_error.max() <= 1e-9 and rows.energy_drift.max() < 1e-8
    chosen = np.arange(0, NUM_ROWS, 67)
    own = {name: values[chosen] for name, values in own_columns(rows.columns, SYSTEM).items()}
    q, p = SYSTEM.reference(own, rows.q0[chosen], rows.p0[chosen], rows.times[chosen])
    error = np.maximum(np.abs(q - rows.q[chosen]), np.abs(p - rows.p[chosen])).max(axis=(1, 2))
    assert np.all(error <= rows.integration_error[chosen])


def test_no_rod_goes_over_and_energies_lie_in_their_strata(rows):
    bounds = np.array([(0.1, 0.3), (0.3, 0.6), (0.6, 0.85), (0.85, 0.98)])
    share = rows.energy / rows.hamiltonians.turnover_energy
    assert np.all((share >= bounds[rows.stratum, 0] - 1e-12) & (share < bounds[rows.stratum, 1] + 1e-12))
    assert np.abs(rows.q).max() < np.pi
    assert np.all((rows.mass >= 0.5) & (rows.mass <= 2.0) & (rows.length >= 0.5) & (rows.length <= 2.0))


def test_the_gradient_is_that_of_the_energy(rows):
    q, p, h = rows.q[:20, :7], rows.p[:20, :7], 1e-6
    some = rows.hamiltonians.take(np.arange(20))
    by_q, by_p = some.gradient(q, p)
    for axis in range(2):
        shift = h * np.eye(2)[axis]
        np.testing.assert_allclose(by_q[..., axis], (some.energy(q + shift, p) - some.energy(q - shift, p)) / (2 * h), atol=1e-7)
        np.testing.assert_allclose(by_p[..., axis], (some.energy(q, p + shift) - some.energy(q, p - shift)) / (2 * h), atol=1e-7)


def test_tangents_are_those_of_differences(rows):
    chosen = np.arange(0, NUM_ROWS, 41)
    pendulums, times = rows.hamiltonians.take(chosen), rows.times[chosen, -1:]

    def flow(q, p):
        again = np.arange(len(q)) % chosen.size
        moved = SYSTEM.certify(pendulums.take(again), q, p, times[again], method="dop853", tolerance=1e-10)
        return moved.q[:, 0], moved.p[:, 0]

    expected = jacobian_by_differences(flow, rows.q0[chosen], rows.p0[chosen], step=1e-4)
    tangents = SYSTEM.tangents(pendulums, rows.q0[chosen], rows.p0[chosen], times)[:, 0]
    np.testing.assert_allclose(tangents, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.linalg.det(tangents), 1.0, atol=1e-3)


def test_small_oscillations_are_the_normal_modes():
    times = np.linspace(0.0, SYSTEM.horizon, 40)
    cases = SYSTEM.named_cases(None)
    assert len(cases) == 2
    for case in cases:
        q0, p0 = np.array([case.q0]), np.array([case.p0])
        solved = SYSTEM.certify(case.hamiltonian, q0, p0, times[None], method="dop853", tolerance=1e-12)
        q, p = case.truth(times)
        np.testing.assert_allclose(solved.q[0], q, atol=1e-10)  # 1e-4 cubed, and time
        np.testing.assert_allclose(solved.p[0], p, atol=1e-10)


def test_splines_through_the_sensors_are_the_pendulum(rows):
    some = rows.hamiltonians.take(np.arange(0, 20, 5))
    fields = some.sense((48, 48))
    assert fields["potential"].shape == (4, 48, 48) and fields["inverse_mass"].shape == (4, 3, 48, 48)
    splines = SYSTEM.from_sensors(fields)
    q, p = rows.q[:20:5, :9], rows.p[:20:5, :9]
    np.testing.assert_allclose(splines.energy(q, p), some.energy(q, p), rtol=1e-3)
    for ours, theirs in zip(splines.gradient(q, p), some.gradient(q, p), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-2 * np.abs(theirs).max())
    np.testing.assert_allclose(SYSTEM.energy_scale(splines), some.turnover_energy, rtol=1e-2)
    np.testing.assert_allclose(splines.sense((5, 5))["inverse_mass"], some.sense((5, 5))["inverse_mass"], atol=0.02)


def test_high_energies_are_often_chaotic_and_low_ones_are_not():
    rows, _ = draw_rows(SYSTEM, RandomPendulums(mass=(1.0, 1.0), length=(1.0, 1.0)), 1, "test", np.arange(80))
    exponents = SYSTEM.measure(rows.hamiltonians, rows.q0, rows.p0, np.full((80, 1), 300.0))["lyapunov"]
    tails = [np.quantile(exponents[rows.stratum == stratum], 0.75) for stratum in range(4)]
    assert tails[0] < 0.025 and tails[3] > 0.05  # neighbours that part in proportion to time give log(300) / 300 = 0.019


def test_what_is_refused():
    with pytest.raises(InputError, match="mass"):
        RandomPendulums(mass=(0.0, 1.0))
    assert DoublePendulums(np.array([[1.0, 1.0]])).turnover_energy == pytest.approx([2.0])
