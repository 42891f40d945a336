"""Random surfaces: their potential from its coefficients, certified motion, exponents, and what is refused."""

import numpy as np
import pytest
from scipy.optimize import minimize

from neural_hamilton.physics import InputError
from neural_hamilton.physics.diagnostics import jacobian_by_differences
from neural_hamilton.physics.potentials.fourier_fields import gaussian_fields, highest_modes, modes
from neural_hamilton.physics.systems import draw_rows, get_system, own_columns
from neural_hamilton.physics.systems.base import Names
from neural_hamilton.physics.systems.surface.ensembles import ProductSurface, RandomSurface, ThreeWaves

SURFACE = get_system("surface")
NUM_ROWS = 120


@pytest.fixture(scope="module")
def rows():
    return draw_rows(SURFACE, RandomSurface(), 0, "train", np.arange(NUM_ROWS))[0]


def by_hand(coefficients, scale, x, y):
    """V from its definition, with NumPy alone."""
    size = round(np.sqrt(coefficients.size))
    k = np.arange(1, (size - 1) // 2 + 1)

    def modes(z):
        pairs = np.stack([np.cos(np.pi * np.multiply.outer(z, k)), np.sin(np.pi * np.multiply.outer(z, k))], axis=-1)
        return np.concatenate([np.ones((*np.shape(z), 1)), pairs.reshape(*np.shape(z), 2 * k.size)], axis=-1)

    field = np.einsum("...i,ij,...j->...", modes(x), coefficients.reshape(size, size), modes(y))
    return 2.0 - scale * 16.0 * x * (1.0 - x) * y * (1.0 - y) * np.exp(field)


class TestPotential:
    def test_it_is_rebuilt_from_the_columns_alone(self, rows):
        own = own_columns(rows.columns, SURFACE)
        rebuilt = SURFACE.rebuild(own)
        for row in range(0, NUM_ROWS, 13):
            x, y = rows.q[row].T
            expected = by_hand(own["coefficients"][row], own["scale"][row], x, y)
            np.testing.assert_allclose(rebuilt.take(np.array([row])).energy(rows.q[[row]], np.zeros((1, 100, 2)))[0], expected, atol=1e-12)
        grid = rebuilt.sense((7, 5))["potential"]
        places = np.stack(np.meshgrid(np.linspace(0, 1, 7), np.linspace(0, 1, 5), indexing="ij"), axis=-1)
        np.testing.assert_allclose(grid, rebuilt.derivatives(np.broadcast_to(places, (NUM_ROWS, 7, 5, 2)), 1)[..., 0], atol=1e-12)

    def test_derivatives_are_those_of_differences(self, rows):
        q, h = np.clip(rows.q[:20, :10], 0.01, 0.99), 1e-5
        derivatives = rows.hamiltonians.take(np.arange(20)).derivatives(q, 6)
        for axis, pairs in enumerate((((0, 1), (1, 3), (2, 4)), ((0, 2), (1, 4), (2, 5)))):
            shift = h * np.eye(2)[axis]
            ahead, behind = (rows.hamiltonians.take(np.arange(20)).derivatives(q + s * shift, 6) for s in (1, -1))
            for of, derivative in pairs:
                difference = (ahead[..., of] - behind[..., of]) / (2 * h)
                np.testing.assert_allclose(derivatives[..., derivative], difference, rtol=1e-6, atol=1e-5)

    def test_rim_and_depth(self, rows):
        grid = rows.hamiltonians.sense((65, 65))["potential"]
        rim = np.concatenate([grid[:, 0], grid[:, -1], grid[:, :, 0], grid[:, :, -1]], axis=1)
        assert np.all(rim == 2.0) and np.all(grid[:, 1:-1, 1:-1] < 2.0)
        for row in range(0, NUM_ROWS, 12):
            lowest = np.unravel_index(grid[row].argmin(), (65, 65))
            one = rows.hamiltonians.take(np.array([row]))
            found = minimize(
                lambda q, one=one: one.derivatives(q[None, None], 1)[0, 0, 0], np.array(lowest) / 64, method="Nelder-Mead", tol=1e-12
            )
            assert 2.0 - found.fun == pytest.approx(rows.depth[row], rel=1e-9)
        np.testing.assert_allclose(SURFACE.energy_scale(rows.hamiltonians), rows.depth, rtol=1e-12)

    def test_the_field_has_the_covariance_of_its_kernel(self):
        length_scale, rng = 0.3, np.random.default_rng(0)
        size = 2 * int(highest_modes(np.array(length_scale))) + 1
        fields = gaussian_fields(rng.standard_normal((4000, size, size)), length_scale)
        places = np.array([[0.2, 0.3], [0.5, 0.3], [0.5, 0.7]])
        values = np.stack(
            [np.log((2.0 - by_hand(f.ravel(), 1.0, *places.T)) / (16 * (places * (1 - places)).prod(axis=1))) for f in fields]
        )
        distance = np.linalg.norm(places[:, None] - places, axis=-1)
        np.testing.assert_allclose(np.cov(values.T), np.exp(-(distance**2) / (2 * length_scale**2)), atol=0.08)


class TestRows:
    def test_certificates(self, rows):
        assert rows.integration_error.max() <= 1e-9 and rows.energy_drift.max() < 1e-8
        chosen = np.arange(0, NUM_ROWS, 11)
        own = {name: [values[row] for row in chosen] for name, values in own_columns(rows.columns, SURFACE).items()}
        q, p = SURFACE.reference(own, rows.q0[chosen], rows.p0[chosen], rows.times[chosen])
        error = np.maximum(np.abs(q - rows.q[chosen]), np.abs(p - rows.p[chosen])).max(axis=(1, 2))
        assert np.all(error <= rows.integration_error[chosen])

    def test_any_grouping_gives_the_same_bytes(self, rows):
        some = draw_rows(SURFACE, RandomSurface(), 0, "train", np.arange(17, 31))[0]
        for name, column in some.columns.items():
            assert column.tobytes() == rows.columns[name][17:31].tobytes(), name

    def test_energies_lie_in_their_strata_below_the_rim(self, rows):
        bounds = np.array([(0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99)])
        np.testing.assert_array_equal(rows.stratum, np.arange(NUM_ROWS) % 4)
        floor = rows.hamiltonians.derivatives(rows.q0, 1)[:, 0]
        fraction = (rows.energy - floor) / (2.0 - floor)
        assert np.all((fraction >= bounds[rows.stratum, 0] - 1e-12) & (fraction < bounds[rows.stratum, 1] + 1e-12))
        assert rows.q.min() > 0.0 and rows.q.max() < 1.0
        assert len({row.tobytes() for row in rows.coefficients}) == NUM_ROWS // 4

    def test_exponents_are_those_of_neighbours(self, rows):
        """From differences of certified motion: the largest stretching of any direction over the horizon."""
        chosen = np.arange(0, NUM_ROWS, 17)
        surfaces, times = rows.hamiltonians.take(chosen), rows.times[chosen, -1:]

        def flow(q, p):
            again = np.arange(len(q)) % chosen.size
            moved = SURFACE.certify(surfaces.take(again), q, p, times[again], method="dop853", tolerance=1e-9)
            return moved.q[:, 0], moved.p[:, 0]

        jacobians = jacobian_by_differences(flow, rows.q0[chosen], rows.p0[chosen], step=1e-5)
        stretching = np.linalg.norm(jacobians, ord=2, axis=(1, 2))
        np.testing.assert_allclose(rows.lyapunov[chosen], np.log(stretching) / 2.0, atol=1e-4)
        tangents = SURFACE.tangents(surfaces, rows.q0[chosen], rows.p0[chosen], times)[:, 0]
        np.testing.assert_allclose(np.linalg.det(tangents), 1.0, atol=1e-4)


class TestRefusals:
    NAMES = (Names(),)

    @pytest.mark.parametrize("options", [{"length_scale": (0.01, 0.1)}, {"depth": (2.0, 1.0)}])
    def test_impossible_ensembles(self, options):
        with pytest.raises(InputError, match=next(iter(options))):
            RandomSurface(**options)

    def test_a_potential_without_its_rim(self, rows):
        values = rows.hamiltonians.sense((12, 12))["potential"][:1]
        SURFACE.check_potential({"potential": values}, self.NAMES)
        values[0, 0, 3] = 1.5
        with pytest.raises(InputError, match="potential is 1.5 on the rim"):
            SURFACE.check_potential({"potential": values}, self.NAMES)

    def test_an_energy_above_the_rim(self, rows):
        one, start = rows.hamiltonians.take(np.array([0])), np.array([[0.5, 0.5]])
        SURFACE.check_initial_state(one, start, np.zeros((1, 2)), self.NAMES)
        with pytest.raises(InputError, match="can cross the rim"):
            SURFACE.check_initial_state(one, start, np.array([[3.0, 3.0]]), self.NAMES)


class TestOtherSurfaces:
    @pytest.mark.parametrize("name", RandomSurface().variants())
    def test_variants_are_certified_and_keep_their_ranges(self, name):
        ensemble = RandomSurface().variants()[name]
        rows, _ = draw_rows(SURFACE, ensemble, 0, "test", np.arange(16))
        assert len(rows) == 16 and rows.integration_error.max() <= 1e-9
        for column in ("length_scale", "depth"):
            low, high = getattr(ensemble, column)
            assert np.all((rows.columns[column] >= low) & (rows.columns[column] <= high))

    def test_products_are_products(self):
        rows, _ = draw_rows(SURFACE, ProductSurface(), 1, "test", np.arange(0, 24, 4))
        below = 2.0 - rows.hamiltonians.sense((14, 11))["potential"]
        singular = np.linalg.svd(below, compute_uv=False)
        assert np.all(singular[:, 1] < 1e-13 * singular[:, 0])

    def test_three_waves_are_those_of_their_formula(self):
        length_scale, x = 0.3, np.linspace(0.0, 1.0, 33)
        uniforms = np.array([0.3, 0.8])
        coefficients = ThreeWaves().draw_field(uniforms, length_scale)
        r = np.stack(np.meshgrid(x - 0.5, x - 0.5, indexing="ij"), axis=-1)
        angles = 2 * np.pi / 3 * (0.3 + np.arange(3))
        waves = np.cos(np.sqrt(2) / length_scale * r @ np.stack([np.cos(angles), np.sin(angles)]) + np.pi / 10)
        field = modes(x, (len(coefficients) - 1) // 2) @ coefficients @ modes(x, (len(coefficients) - 1) // 2).T
        assert np.abs(field - np.sqrt(2 / 3) * waves.sum(axis=-1)).max() < 1e-4

    def test_three_waves_have_the_threefold_symmetry_of_henon_and_heiles(self):
        coefficients, radius, turn = ThreeWaves().draw_field(np.array([0.1, 0.9]), 0.25), 0.2, 2 * np.pi / 3
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)

        def along(angles):
            x, y = 0.5 + radius * np.cos(angles), 0.5 + radius * np.sin(angles)
            highest = (len(coefficients) - 1) // 2
            return np.einsum("ni,ij,nj->n", modes(x, highest), coefficients, modes(y, highest))

        assert np.abs(along(angles + turn) - along(angles)).max() < 1e-4
        assert np.ptp(along(angles)) > 0.05  # no circle
