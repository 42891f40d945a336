"""Random problems: pure functions of their address, drawn from the distributions the ensembles promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neural_hamilton.physics import InputError
from neural_hamilton.physics.potentials.random_fields import gaussian_random_fields
from neural_hamilton.physics.solvers.reference import solve_control_polygon
from neural_hamilton.physics.systems import SPLITS, Draws, Rejection, Rows, get_system
from neural_hamilton.physics.systems import rows as rows_module
from neural_hamilton.physics.systems.well import paper, phase_space, sharp

WELL = get_system("well")
ENSEMBLES = {"paper": paper.Paper(), "phase-space": phase_space.PhaseSpace()}
NUM_ROWS = 600


def draw_rows(ensemble, seed, split, indices, **settings):
    return rows_module.draw_rows(WELL, ensemble, seed, split, indices, **{"num_times": 20} | settings)


def assert_same_bytes(rows, others):
    assert rows.columns.keys() == others.columns.keys()
    for name, column in rows.columns.items():
        assert column.tobytes() == others.columns[name].tobytes(), name
    assert rows.hamiltonians.energy(rows.q, rows.p).tobytes() == others.hamiltonians.energy(others.q, others.p).tobytes()


def part(rows, start, stop):
    return Rows({name: column[start:stop] for name, column in rows.columns.items()}, rows.hamiltonians.take(np.arange(start, stop)))


def polygon(rows, row):
    """Control abscissae and heights of one row, without padding."""
    inside = ~np.isnan(rows.control_q[row])
    return rows.control_q[row, inside], rows.control_v[row, inside]


def num_control(rows):
    return (~np.isnan(rows.control_q)).sum(axis=1)


@pytest.fixture(scope="module")
def rows():
    return {ensemble: draw_rows(ENSEMBLES[ensemble], 3, "train", np.arange(NUM_ROWS))[0] for ensemble in ENSEMBLES}


@pytest.mark.parametrize("ensemble", ENSEMBLES)
class TestEveryEnsemble:
    @settings(max_examples=25, deadline=None)
    @given(cut=st.tuples(st.integers(0, NUM_ROWS), st.integers(0, NUM_ROWS)).map(sorted))
    def test_any_grouping_gives_the_same_bytes(self, ensemble, rows, cut):
        """Alone or together, after other draws or none: a row does not know its neighbours."""
        start, stop = cut[0], min(cut[1], cut[0] + 37)
        draw_rows(ENSEMBLES[ensemble], 99, "val", np.arange(stop, stop + 2))
        np.random.default_rng().normal(size=stop)
        if start < stop:
            assert_same_bytes(draw_rows(ENSEMBLES[ensemble], 3, "train", np.arange(start, stop))[0], part(rows[ensemble], start, stop))

    @pytest.mark.parametrize("integrator", ["dop853", "rk4"])
    def test_integrators_agree_on_the_same_draws(self, ensemble, rows, integrator):
        others, _ = draw_rows(ENSEMBLES[ensemble], 3, "train", np.arange(8), method=integrator)
        assert others.control_v.tobytes() == rows[ensemble].control_v[:8].tobytes()
        np.testing.assert_allclose(others.q, rows[ensemble].q[:8], atol=2e-9, rtol=0)
        np.testing.assert_allclose(others.p, rows[ensemble].p[:8], atol=2e-9, rtol=0)

    def test_seeds_splits_and_indices_differ(self, ensemble):
        stride = ENSEMBLES[ensemble].orbits_per_hamiltonian
        heights = [
            draw_rows(ENSEMBLES[ensemble], seed, split, np.arange(8 * stride))[0].control_v[::stride]
            for seed, split in ((3, "train"), (3, "val"), (3, "test"), (4, "train"))
        ]
        assert len({row.tobytes() for block in heights for row in block}) == 32

    def test_ids_are_unique_over_splits(self, ensemble):
        drawn = [draw_rows(ENSEMBLES[ensemble], 3, split, np.arange(8))[0] for split in SPLITS]
        assert np.unique(np.concatenate([d.trajectory_id for d in drawn])).size == 24
        assert np.unique(np.concatenate([d.potential_id for d in drawn])).size == 24 // ENSEMBLES[ensemble].orbits_per_hamiltonian

    def test_control_polygons(self, ensemble, rows):
        drawn = rows[ensemble]
        firsts = range(0, NUM_ROWS, ENSEMBLES[ensemble].orbits_per_hamiltonian)
        counts = np.bincount(num_control(drawn)[firsts] - 2, minlength=8)
        assert counts[:2].sum() == 0
        assert counts.size == 8
        assert stats.chisquare(counts[2:]).pvalue > 1e-3
        assert stats.kstest(drawn.length_scale[firsts], stats.uniform(0.01, 0.19).cdf).pvalue > 1e-3
        relative = []
        for row in firsts:
            control_q, control_v = polygon(drawn, row)
            inner, n = control_q[1:-1], control_q.size - 2
            j = np.arange(n)
            low = j / n + np.where(j == 0, 0.05, 0.025)
            high = (j + 1) / n - np.where(j == n - 1, 0.05, 0.025)
            assert (control_q[0], control_q[-1], control_v[0], control_v[-1]) == (0.0, 1.0, 2.0, 2.0)
            assert np.all((inner >= low) & (inner <= high))
            relative.extend((inner - low) / (high - low))
        assert stats.kstest(relative, "uniform").pvalue > 1e-3

    def test_no_orbit_leaves_the_walls(self, ensemble, rows):
        assert rows[ensemble].q.min() > -1e-8
        assert rows[ensemble].q.max() < 1 + 1e-8

    def test_rows_start_where_they_say_and_keep_their_energy(self, ensemble, rows):
        d = rows[ensemble]
        np.testing.assert_allclose(d.q[:, 0], d.q0, atol=1e-15, rtol=0)
        np.testing.assert_array_equal(d.p[:, 0], d.p0)
        np.testing.assert_allclose(d.energy, 0.5 * d.p0**2 + d.hamiltonians.curves.value(d.q0), atol=1e-14, rtol=0)
        for row in range(0, NUM_ROWS, 10):
            hamiltonian = 0.5 * d.p[row] ** 2 + d.hamiltonians.curves[row].value(d.q[row])
            assert np.abs(hamiltonian - d.energy[row]).max() < 1e-11
        assert d.integration_error.min() >= 0
        assert d.integration_error.max() <= 1e-9
        assert d.energy_drift.min() >= 0
        assert d.energy_drift.max() < 1e-11


def test_paper_rows(rows):
    d = rows["paper"]
    assert not d.q0.any() and not d.p0.any()
    assert np.isnan(d.depth).all() and (d.stratum == -1).all()
    np.testing.assert_allclose(d.times, np.tile(np.linspace(0.0, 2.0, 20), (NUM_ROWS, 1)), atol=1e-7, rtol=0)
    np.testing.assert_allclose(d.energy, 2.0, atol=1e-14, rtol=0)
    heights = np.concatenate([polygon(d, row)[1][1:-1] for row in range(NUM_ROWS)])
    assert stats.kstest(heights, stats.norm(0.0, 4 / 9.2).cdf).pvalue > 1e-3


@pytest.fixture(scope="module")
def sharp_rows():
    return draw_rows(sharp.Sharp(), 3, "train", np.arange(NUM_ROWS))[0]


def test_sharp_rows_are_certified(sharp_rows):
    """By series, that is; a method of fixed steps loses particles at steps, and refuses them."""
    d = sharp_rows
    assert d.integration_error.max() <= 1e-9 and d.energy_drift.max() < 1e-11
    assert_same_bytes(draw_rows(sharp.Sharp(), 3, "train", np.arange(7, 20))[0], part(d, 7, 20))
    for row in range(0, NUM_ROWS, 100):
        q, p = solve_control_polygon(*polygon(d, row), d.q0[row], d.p0[row], d.times[row])
        np.testing.assert_allclose(np.stack([d.q[row], d.p[row]]), np.stack([q, p]), atol=2e-9, rtol=0)


@pytest.mark.parametrize("rounding", [(0.0, 0.1), (0.2, 0.1), (0.1, 0.5)])
def test_impossible_rounding_is_refused(rounding):
    with pytest.raises(InputError, match="rounding"):
        sharp.Sharp(rounding=rounding)


def test_sharp_rows(sharp_rows):
    """The potential is its polygon between the outer corners, but near them: level pieces, steps, and straight slopes."""
    d = sharp_rows
    assert not d.q0.any() and not d.p0.any()
    fields, places = d.hamiltonians.sense((401,))["potential"], np.linspace(0.0, 1.0, 401)
    kinds = {"level": 0, "steep": 0, "sloping": 0}
    for row in range(NUM_ROWS):
        q, v = polygon(d, row)
        assert (len(q) - 2) % 3 == 0 and np.all(np.diff(q) > 0.0)
        corners, heights = q[[0, *range(2, len(q) - 1, 3), -1]], v[[0, *range(2, len(q) - 1, 3), -1]]
        rounding = (corners[1] - q[1]) / corners[1]
        assert 0.01 <= rounding <= 0.3
        straight = (places > corners[1]) & (places < corners[-2])
        bent = (1.0 + 3.0 * rounding) / 6.0
        for k, corner in enumerate(corners[1:-1], start=1):
            straight &= (places < corner - bent * (corner - corners[k - 1])) | (places > corner + bent * (corners[k + 1] - corner))
        np.testing.assert_allclose(fields[row, straight], np.interp(places[straight], corners, heights), atol=1e-9)
        for width, rise in zip(np.diff(corners)[1:-1], np.diff(heights)[1:-1], strict=True):
            kinds["level" if rise == 0.0 else "steep" if width < 0.0201 else "sloping"] += 1
    assert min(kinds.values()) > 0.25 * sum(kinds.values())


def test_phase_space_rows(rows):
    bounds = np.array([(0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99)])
    d = rows["phase-space"]
    index = np.arange(NUM_ROWS)
    np.testing.assert_array_equal(d.stratum, index % 4)
    np.testing.assert_array_equal(d.potential_id, index // 4)
    for row in range(NUM_ROWS):
        inner = polygon(d, row)[1][1:-1]
        assert inner.min() == pytest.approx(2.0 - d.depth[row], abs=1e-12)
        assert inner.max() == pytest.approx(1.9, abs=1e-12)
    floor = d.hamiltonians.curves.value(d.q0)
    fraction = (d.energy - floor) / (2.0 - floor)
    assert np.all((fraction >= bounds[d.stratum, 0] - 1e-12) & (fraction < bounds[d.stratum, 1] + 1e-12))
    np.testing.assert_array_equal(d.times, d.times.astype(np.float32), "times are exact in either dtype")
    assert not d.times[:, 0].any() and (d.times[:, -1] == 2.0).all()
    assert np.all(np.diff(d.times, axis=1) >= 0)
    assert stats.kstest(d.depth[::4], stats.uniform(0.5, 3.0).cdf).pvalue > 1e-3
    assert stats.kstest(d.q0, "uniform").pvalue > 1e-3
    assert stats.kstest(d.times[:, 1:-1].ravel(), stats.uniform(0, 2).cdf).pvalue > 1e-3
    assert stats.binomtest(int((d.p0 > 0).sum()), NUM_ROWS).pvalue > 1e-3


def test_orbits_of_a_potential_share_it(rows):
    d = rows["phase-space"]
    for first in range(0, 40, 4):
        assert len({row.tobytes() for row in d.control_v[first : first + 4]}) == 1
        assert np.unique(d.q0[first : first + 4]).size == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "paper", "control_points": (12, 20)},
        {"name": "phase-space", "control_points": (12, 20), "length_scale": (0.002, 0.005)},
        {"name": "paper", "depth": (6.0, 9.0)},
        {"name": "phase-space", "depth": (5.0, 8.0)},
    ],
)
def test_families_out_of_distribution_are_certified_too(fields):
    ensemble = WELL.get_ensemble(fields.pop("name"))(**fields)
    d, _ = draw_rows(ensemble, 1, "test", np.arange(40))
    assert d.integration_error.max() <= 1e-9
    assert num_control(d).min() >= 2 + ensemble.control_points[0] and num_control(d).max() <= 2 + ensemble.control_points[1]
    low, high = ensemble.length_scale
    assert np.all((d.length_scale >= low) & (d.length_scale <= high))
    if ensemble.depth[0] < ensemble.depth[1]:
        assert np.all((d.depth >= ensemble.depth[0]) & (d.depth <= ensemble.depth[1]))
    for row in range(0, 40, 13):
        q, p = solve_control_polygon(*polygon(d, row), d.q0[row], d.p0[row], d.times[row])
        assert max(np.abs(q - d.q[row]).max(), np.abs(p - d.p[row]).max()) <= d.integration_error[row] + 1e-10


@pytest.mark.parametrize("length_scale", [0.01, 0.1, 0.2])
def test_random_field_has_its_covariance(length_scale):
    factor = gaussian_random_fields(np.eye(7), np.full(7, length_scale)).T
    points = np.arange(7) / 7
    expected = np.exp(-((points[:, None] - points) ** 2) / (2 * length_scale**2))
    np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-11)


def test_noise_is_standard_pure_and_unlike_its_neighbours():
    noise = Draws(0, "train", np.arange(50)).noise(100)
    np.testing.assert_array_equal(noise[13:17], Draws(0, "train", np.arange(13, 17)).noise(100))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise) - np.eye(50)).max() < 0.5
    assert not np.array_equal(noise[13], Draws(0, "val", np.arange(13, 14)).noise(100)[0])
    assert not np.array_equal(noise[13], Draws(1, "train", np.arange(13, 14)).noise(100)[0])


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_rejections_are_counted_and_the_next_attempt_taken(ensemble, monkeypatch):
    whole = type(WELL).certify
    seen = []

    def reluctant(system, wells, q0, p0, times, **options):
        """Refuses row 5 of 8 twice, for two reasons."""
        solved = whole(system, wells, q0, p0, times, **options)
        row = 5 if len(wells) == 8 else 0
        seen.append((wells.curves.poly_v[row].tobytes(), q0[row]))
        if len(seen) == 1:
            solved.rejection[5] = Rejection.NOT_CERTIFIED
        if len(seen) == 2:
            solved.rejection[0] = Rejection.POSITION_OUT_OF_RANGE
        return solved

    undisturbed, _ = draw_rows(ENSEMBLES[ensemble], 0, "train", np.arange(8))
    monkeypatch.setattr(type(WELL), "certify", reluctant)
    drawn, rejections = draw_rows(ENSEMBLES[ensemble], 0, "train", np.arange(8))
    assert rejections == {Rejection.NOT_CERTIFIED: 1, Rejection.POSITION_OUT_OF_RANGE: 1}
    assert len(set(seen)) == len(seen) == 3, "every attempt is another draw"
    potentials = {potential for potential, _ in seen}
    assert len(potentials) == (3 if ensemble == "paper" else 1), "orbits of one potential must go on sharing it"
    assert drawn.trajectory_id.tolist() == list(range(8))
    assert_same_bytes(part(drawn, 0, 5), part(undisturbed, 0, 5))
    assert_same_bytes(part(drawn, 6, 8), part(undisturbed, 6, 8))


def test_a_hopeless_ensemble_is_refused_with_its_reason():
    with pytest.raises(InputError, match=r"row 0 of split 'train' .*potential_out_of_range"):
        draw_rows(phase_space.PhaseSpace(depth=(30.0, 30.0)), 0, "train", np.arange(1))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"depth": (3.0, 1.0)}, r"depth is \(3.0, 1.0\)"),
        ({"control_points": (1, 3)}, "control_points"),
        ({"length_scale": (0.0, 1.0)}, "length_scale"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        paper.Paper(**fields)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(InputError, match=r"'papr'.*paper, phase-space"):
        WELL.get_ensemble("papr")
    with pytest.raises(InputError, match=r"'wall'.*well"):
        get_system("wall")
