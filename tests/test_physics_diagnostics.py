"""Figures of merit by hand, and on maps whose Jacobians are known."""

import numpy as np
import pytest
from scipy.linalg import expm

from neural_hamilton.physics import FIXED_STEP_METHODS, Curves, InputError, solve, solve_tangents
from neural_hamilton.physics.diagnostics import (
    energy_drift,
    jacobian_by_differences,
    log_stretchings,
    parts_exponentially,
    reversibility_defect,
    symplecticity_defect,
    tangent_error,
    total_loss,
)
from neural_hamilton.physics.systems import draw_rows, get_system
from neural_hamilton.physics.systems.well.textbook import NAMED_POTENTIALS

CURVE = Curves.from_control_points([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0], [2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
HARMONIC = NAMED_POTENTIALS["harmonic"]
HARMONIC_CURVE = Curves.from_samples(HARMONIC.value(np.linspace(0, 1, 11)))
TIMES = np.array([0.0, 0.3, 0.7, 1.0])
SYMMETRIC = {"stormer-verlet", "yoshida4", "yoshida6", "yoshida8", "blanes-moan4", "blanes-moan6", "gauss-legendre4"}  # and symplectic
Q0, P0 = np.array([0.2, 0.45, 0.8]), np.array([0.6, -0.3, 0.1])


def test_total_loss_by_hand():
    q, p = np.array([1.0, 2.0]), np.array([0.0, 4.0])
    assert total_loss(q, p, np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(0.5 * (4 / 2 + (1 + 9) / 2))


def test_total_loss_is_batched_and_zero_for_the_truth():
    q = np.random.default_rng(0).normal(size=(3, 2, 5))
    assert total_loss(q, q, q, q).shape == (3, 2)
    assert not total_loss(q, q, q, q).any()


def test_energy_drift_by_hand():
    value, p = np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 2.0], [1.0, 2.0]])
    # H = [[2, 3], [0.5, 2]], H0 = [2, 0.5], scales 4 and 3
    np.testing.assert_allclose(energy_drift(value, p, np.array([2.0, 0.5]), np.array([4.0, 3.0])), [1 / 4, 1.5 / 3])
    assert energy_drift(value[0], p[0], 2.0, 4.0) == pytest.approx(0.25)


def jacobian_by_complex_step(flow, q0, p0):
    """f'(x) = Im f(x + i h) / h with h = 1e-30, exact to rounding (Squire & Trapp, SIAM Review 40, 1998): (N, ..., 2, 2)."""
    h, q0, p0 = 1e-30, np.asarray(q0, dtype=complex), np.asarray(p0, dtype=complex)
    q, p = flow(np.concatenate([q0 + 1j * h, q0]), np.concatenate([p0, p0 + 1j * h]))
    slopes = np.stack([np.imag(q), np.imag(p)], axis=-1) / h
    return np.moveaxis(slopes.reshape(2, q0.size, *slopes.shape[1:]), 0, -1)


def henon(q, p):
    """A map that keeps area, with the Jacobian below."""
    return p + 1 - 1.4 * q**2, -q


def henon_jacobian(q):
    return np.array([[[-2.8 * x, 1.0], [-1.0, 0.0]] for x in q])


class TestJacobians:
    def test_differences(self):
        np.testing.assert_allclose(jacobian_by_differences(henon, Q0, P0), henon_jacobian(Q0), atol=1e-11)

    def test_complex_step(self):
        np.testing.assert_allclose(jacobian_by_complex_step(henon, Q0, P0), henon_jacobian(Q0), atol=1e-15)

    @pytest.mark.parametrize("jacobian", [jacobian_by_differences, jacobian_by_complex_step])
    def test_at_many_times(self, jacobian):
        def flow(q0, p0):
            c, s = np.cos(4 * TIMES), np.sin(4 * TIMES)
            return q0[:, None] * c + p0[:, None] / 4 * s, p0[:, None] * c - 4 * q0[:, None] * s

        c, s = np.cos(4 * TIMES), np.sin(4 * TIMES)
        expected = np.stack([np.stack([c, s / 4], -1), np.stack([-4 * s, c], -1)], -2)
        found = jacobian(flow, Q0, P0)
        assert found.shape == (3, 4, 2, 2)
        np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 4, 2, 2)), atol=1e-11)

    def test_differences_are_of_fourth_order(self):
        def flow(q0, p0):
            return np.exp(q0) * np.sin(p0), np.cos(q0 * p0)

        exact = jacobian_by_complex_step(flow, Q0, P0)
        errors = [np.abs(jacobian_by_differences(flow, Q0, P0, step) - exact).max() for step in (0.2, 0.1, 0.05)]
        assert np.polyfit(np.log([0.2, 0.1, 0.05]), np.log(errors), 1)[0] == pytest.approx(4.0, abs=0.2)


def test_symplecticity_defect_by_hand():
    jacobians = np.array([[[2.0, 0.0], [0.0, 0.5]], [[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    np.testing.assert_allclose(symplecticity_defect(jacobians), [0.0, 1.0, 2.0])


def test_symplecticity_defect_of_two_degrees_of_freedom():
    omega = np.kron([[0.0, 1.0], [-1.0, 0.0]], np.eye(2))
    hessian = np.random.default_rng(1).normal(size=(3, 4, 4))
    flows = np.stack([expm(0.3 * omega @ (h + h.T)) for h in hessian])  # of quadratic Hamiltonians
    np.testing.assert_allclose(symplecticity_defect(flows), 0.0, atol=1e-13)
    # Volume is preserved here, and the sum of areas is not: each pair is scaled, one by 2 and the other by 1 / 2.
    np.testing.assert_allclose(symplecticity_defect(np.diag([2.0, 0.5, 1.0, 1.0])), 1.0)
    other = np.random.default_rng(2).normal(size=(3, 4, 4))
    expected = np.abs(np.swapaxes(other, -1, -2) @ omega @ other - omega).max(axis=(-2, -1))
    np.testing.assert_allclose(symplecticity_defect(other), expected, rtol=1e-12)


def test_tangent_error_sees_what_area_does_not():
    shear, truth = np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2)
    assert symplecticity_defect(shear) == 0.0
    assert tangent_error(shear, truth) == pytest.approx(0.5 / np.sqrt(2))


def stepper(name, max_step, times=TIMES):
    return lambda q0, p0: solve(CURVE, q0, p0, times, method=name, step=max_step)[:2]


@pytest.mark.parametrize("name", sorted(FIXED_STEP_METHODS))
def test_symplectic_methods_keep_area_and_the_others_do_not(name):
    # A smooth well and coarse steps, so that a method that does not keep area shows it.
    well = Curves.from_samples([8 * (q - 0.5) ** 2 * (1 + 0.8 * (q - 0.5)) for q in np.linspace(0, 1, 9)])
    defect = symplecticity_defect(
        jacobian_by_differences(lambda q, p: solve(well, q, p, np.array([0.5]), method=name, step=0.25)[:2], Q0, P0, 2e-4)
    )
    assert defect.max() < 1e-9 if name in SYMMETRIC else defect.max() > 1e-7


@pytest.mark.parametrize("name", sorted(set(FIXED_STEP_METHODS) - {"rk4-as-published"}))
def test_symmetric_methods_are_reversible(name):
    defect = reversibility_defect(stepper(name, 0.1, np.array([0.6])), Q0, P0)
    assert defect.shape == (3, 1)
    assert defect.max() < 1e-12 if name in SYMMETRIC else defect.max() > 1e-9


def test_reversibility_of_flows_with_and_without_times():
    exact = lambda q0, p0: tuple(np.stack(x) for x in zip(*(HARMONIC.truth(TIMES, q, p) for q, p in zip(q0, p0, strict=True)), strict=True))  # noqa: E731
    assert reversibility_defect(exact, Q0, P0).shape == (3, 4)
    assert reversibility_defect(exact, Q0, P0).max() < 1e-14
    # A map that turns by a quarter and grows: back at the start but four times as far.
    np.testing.assert_allclose(reversibility_defect(lambda q, p: (2 * p, -2 * q), np.array([0.5]), np.array([0.0])), [1.5])


class TestTangents:
    def test_harmonic(self):
        q, p, jacobian = solve_tangents(HARMONIC_CURVE, 0.3, 0.2, TIMES)
        np.testing.assert_allclose([q, p], HARMONIC.truth(TIMES, 0.3, 0.2), atol=1e-12)
        c, s = np.cos(4 * TIMES), np.sin(4 * TIMES)
        np.testing.assert_allclose(jacobian, np.stack([np.stack([c, s / 4], -1), np.stack([-4 * s, c], -1)], -2), atol=1e-11)

    @pytest.mark.parametrize("start", [(0.2, 0.6), (0.45, -0.3), (0.8, 0.1), (0.5, 1.0)])
    def test_keep_area_and_agree_with_differences_of_exact_motion(self, start):
        _, _, jacobian = solve_tangents(CURVE, *start, TIMES)
        assert symplecticity_defect(jacobian).max() < 1e-10

        def flow(q0, p0):
            return solve(CURVE, q0, p0, TIMES, method="quadrature")[:2]

        # V''' jumps at the knots, so differences are of second order where an orbit's neighbours cross one earlier or later.
        difference = jacobian_by_differences(flow, np.array([start[0]]), np.array([start[1]]), 1e-5)[0]
        assert tangent_error(difference, jacobian).max() < 1e-6

    def test_start_is_the_identity(self):
        np.testing.assert_array_equal(solve_tangents(CURVE, 0.3, 0.2, np.array([0.0]))[2], np.eye(2)[None])

    def test_the_jacobian_of_a_solver_tends_to_them(self):
        reference = solve_tangents(CURVE, Q0[0], P0[0], TIMES)[2]
        errors = [
            tangent_error(jacobian_by_differences(stepper("rk4", h), Q0[:1], P0[:1], 1e-4)[0], reference).max()
            for h in (0.05, 0.005, 0.0005)
        ]
        assert errors[0] > 10 * errors[1] > 100 * errors[2]

    def test_what_cannot_be_met_is_refused(self):
        with pytest.raises(InputError, match="tolerance is 1e-30"):
            solve_tangents(CURVE, 0.3, 0.2, TIMES, tolerance=1e-30)


class TestStretching:
    WINDOWS = 100

    def product(self, one):
        return log_stretchings(np.broadcast_to(one, (3, self.WINDOWS, *np.shape(one))))

    def test_that_of_a_shear_grows_with_time_and_that_of_a_cat_map_exponentially(self):
        """Arnold's cat map stretches by the square of the golden ratio; a shear by k to (k + sqrt(k² + 4)) / 2."""
        k = np.arange(1, self.WINDOWS + 1)
        shear, cat = self.product([[1.0, 1.0], [0.0, 1.0]]), self.product([[2.0, 1.0], [1.0, 1.0]])
        np.testing.assert_allclose(shear, np.tile(np.log((k + np.sqrt(k * k + 4.0)) / 2.0), (3, 1)), atol=1e-12)
        np.testing.assert_allclose(cat, np.tile(2.0 * k * np.log((1.0 + np.sqrt(5.0)) / 2.0), (3, 1)), atol=1e-12)
        assert not parts_exponentially(shear).any() and parts_exponentially(cat).all()

    def test_it_may_exceed_the_largest_number(self):
        np.testing.assert_allclose(self.product(np.diag([1e30, 1e-30]))[0, -1], 100 * 30 * np.log(10.0))

    def test_a_rotation_does_not_stretch(self):
        rotation = self.product([[np.cos(1.0), np.sin(1.0)], [-np.sin(1.0), np.cos(1.0)]])
        np.testing.assert_allclose(rotation, 0.0, atol=1e-12)
        assert not parts_exponentially(rotation).any()

    def test_a_stretching_that_oscillates_as_it_grows_is_regular(self):
        k = np.arange(1, 201)
        for phase in np.linspace(0.0, 2.0 * np.pi, 9):
            assert not parts_exponentially(np.log(k * np.exp(np.sin(0.7 * k + phase))))

    def test_regular_and_chaotic_orbits_of_henon_and_heiles(self):
        """Of the lowest stratum of energies nearly all are regular, of the highest nearly all chaotic; few are undecided."""
        system = get_system("henon-heiles")
        rows, _ = draw_rows(system, system.get_ensemble("section")(), 0, "test", np.arange(80))
        ends = np.tile(system.horizon * np.arange(1, 101), (80, 1))
        q, p = system.solve(rows.hamiltonians, rows.q0, rows.p0, ends)
        starts = (np.concatenate([x0[:, None], x[:, :-1]], axis=1).reshape(-1, 2) for x0, x in ((rows.q0, q), (rows.p0, p)))
        windows = rows.hamiltonians.take(np.repeat(np.arange(80), 100))
        jacobians = system.tangents(windows, *starts, np.full((8000, 1), system.horizon)).reshape(80, 100, 4, 4)
        stretchings = log_stretchings(jacobians)
        whole = system.tangents(rows.hamiltonians, rows.q0, rows.p0, ends[:, 2:3])[:, 0]
        np.testing.assert_allclose(stretchings[:, 2], np.log(np.linalg.norm(whole, ord=2, axis=(1, 2))), atol=1e-4)
        chaotic = parts_exponentially(stretchings)
        assert chaotic[rows.stratum == 0].mean() < 0.1 and chaotic[rows.stratum == 3].mean() > 0.7
        growth = stretchings[:, 75:].mean(axis=1) - stretchings[:, 25:50].mean(axis=1)
        assert np.mean((growth > 1.2) & (growth < 4.0)) < 0.1
