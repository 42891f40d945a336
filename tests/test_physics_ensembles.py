"""Random problems: pure functions of their address, drawn from the distributions the presets promise."""

import numpy as np
import pytest
from scipy import stats

from neural_hamilton.physics import Ensemble, InputError, Rejection, draw_problem, ensembles
from neural_hamilton.physics.ensembles import SPLITS, draw_noise
from neural_hamilton.physics.random_fields import gaussian_random_field

PRESETS = ("paper", "phase-space")
# The fast method: what is tested here is how rows are drawn, and both methods are certified to the same tolerance.
ENSEMBLES = {preset: Ensemble(preset, integrator="dop853", num_times=20) for preset in PRESETS}
NUM_ROWS = 600


def as_bytes(problem):
    row = problem.trajectory
    arrays = (*problem.potential.curve, problem.control_q, problem.control_v, row.times, row.q, row.p)
    return b"".join(a.tobytes() for a in arrays), problem.q0, problem.p0, row.energy, row.integration_error, row.energy_drift


@pytest.fixture(scope="module")
def rows():
    return {preset: [draw_problem(ENSEMBLES[preset], 3, "train", i)[0] for i in range(NUM_ROWS)] for preset in PRESETS}


@pytest.mark.parametrize("preset", PRESETS)
class TestEveryPreset:
    def test_pure(self, preset, rows):
        """Drawn alone, backwards and between rows of others, a row has the same bytes."""
        for index in (7, 6, 0, 7):
            draw_problem(ENSEMBLES[preset], 99, "val", index + 1)
            np.random.default_rng().normal(size=index)
            assert as_bytes(draw_problem(ENSEMBLES[preset], 3, "train", index)[0]) == as_bytes(rows[preset][index])

    def test_seeds_splits_and_indices_differ(self, preset, rows):
        stride = ENSEMBLES[preset].orbits_per_potential
        base = [rows[preset][i].control_v.tobytes() for i in range(0, 8 * stride, stride)]
        others = [
            draw_problem(ENSEMBLES[preset], seed, split, i)[0].control_v.tobytes()
            for seed, split in ((3, "val"), (3, "test"), (4, "train"))
            for i in range(0, 8 * stride, stride)
        ]
        assert len({*base, *others}) == 32

    def test_ids_are_unique_over_splits(self, preset):
        drawn = [draw_problem(ENSEMBLES[preset], 3, split, i)[0] for split in SPLITS for i in range(8)]
        assert len({d.trajectory_id for d in drawn}) == 24
        assert len({d.potential_id for d in drawn}) == 24 // ENSEMBLES[preset].orbits_per_potential

    def test_control_polygons(self, preset, rows):
        drawn = rows[preset][:: ENSEMBLES[preset].orbits_per_potential]
        counts = np.bincount([d.control_q.size - 2 for d in drawn], minlength=8)
        assert counts[:2].sum() == 0
        assert counts.size == 8
        assert stats.chisquare(counts[2:]).pvalue > 1e-3
        lengths = [d.length_scale for d in drawn]
        assert stats.kstest(lengths, stats.uniform(0.01, 0.19).cdf).pvalue > 1e-3
        relative = []
        for d in drawn:
            inner, n = d.control_q[1:-1], d.control_q.size - 2
            j = np.arange(n)
            low = j / n + np.where(j == 0, 0.05, 0.025)
            high = (j + 1) / n - np.where(j == n - 1, 0.05, 0.025)
            assert (d.control_q[0], d.control_q[-1], d.control_v[0], d.control_v[-1]) == (0.0, 1.0, 2.0, 2.0)
            assert np.all((inner >= low) & (inner <= high))
            relative.extend((inner - low) / (high - low))
        assert stats.kstest(relative, "uniform").pvalue > 1e-3

    def test_no_orbit_leaves_the_walls(self, preset, rows):
        assert min(d.trajectory.q.min() for d in rows[preset]) > -1e-8
        assert max(d.trajectory.q.max() for d in rows[preset]) < 1 + 1e-8

    def test_rows_start_where_they_say_and_keep_their_energy(self, preset, rows):
        for d in rows[preset]:
            row = d.trajectory
            assert (row.q[0], row.p[0]) == (d.q0, d.p0)
            assert row.energy == pytest.approx(0.5 * d.p0**2 + float(d.potential.value(np.array(d.q0))), abs=1e-14)
            assert np.abs(0.5 * row.p**2 + d.potential.value(row.q) - row.energy).max() < 1e-7
            assert 0 <= row.integration_error <= 1e-9
            assert 0 <= row.energy_drift < 1e-8


def test_paper_rows(rows):
    for d in rows["paper"]:
        assert (d.q0, d.p0, d.depth, d.stratum) == (0.0, 0.0, None, None)
        np.testing.assert_allclose(d.trajectory.times, np.linspace(0.0, 2.0, 20), atol=1e-7, rtol=0)
        assert d.trajectory.energy == pytest.approx(2.0, abs=1e-14)
    heights = np.concatenate([d.control_v[1:-1] for d in rows["paper"]])
    assert stats.kstest(heights, stats.norm(0.0, 4 / 9.2).cdf).pvalue > 1e-3


def test_phase_space_rows(rows):
    bounds = ((0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99))
    for i, d in enumerate(rows["phase-space"]):
        inner = d.control_v[1:-1]
        assert d.stratum == i % 4
        assert d.potential_id == i // 4
        assert inner.min() == pytest.approx(2.0 - d.depth, abs=1e-12)
        assert inner.max() == pytest.approx(1.9, abs=1e-12)
        floor = float(d.potential.value(np.array(d.q0)))
        share = (d.trajectory.energy - floor) / (2.0 - floor)
        assert bounds[d.stratum][0] - 1e-12 <= share < bounds[d.stratum][1] + 1e-12
        times = d.trajectory.times
        np.testing.assert_array_equal(times, times.astype(np.float32), "times are exact in either dtype")
        assert (times[0], times[-1]) == (0.0, 2.0)
        assert np.all(np.diff(times) >= 0)
    drawn = rows["phase-space"]
    assert stats.kstest([d.depth for d in drawn[::4]], stats.uniform(0.5, 3.0).cdf).pvalue > 1e-3
    assert stats.kstest([d.q0 for d in drawn], "uniform").pvalue > 1e-3
    assert stats.kstest(np.concatenate([d.trajectory.times[1:-1] for d in drawn]), stats.uniform(0, 2).cdf).pvalue > 1e-3
    assert stats.binomtest(sum(d.p0 > 0 for d in drawn), NUM_ROWS).pvalue > 1e-3


def test_orbits_of_a_potential_share_it(rows):
    for first in range(0, 40, 4):
        group = rows["phase-space"][first : first + 4]
        assert len({d.control_v.tobytes() for d in group}) == 1
        assert len({d.q0 for d in group}) == 4


@pytest.mark.parametrize("length_scale", [0.01, 0.1, 0.2])
def test_random_field_has_its_covariance(length_scale):
    factor = np.stack([gaussian_random_field(unit, length_scale) for unit in np.eye(7)], axis=1)
    points = np.arange(7) / 7
    expected = np.exp(-((points[:, None] - points) ** 2) / (2 * length_scale**2))
    np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-11)


def test_noise_is_standard_pure_and_unlike_its_neighbours():
    noise = np.stack([draw_noise(0, "train", i, 100) for i in range(50)])
    np.testing.assert_array_equal(noise[13], draw_noise(0, "train", 13, 100))
    np.testing.assert_array_equal(noise[13, :20], draw_noise(0, "train", 13, 20))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise) - np.eye(50)).max() < 0.5
    assert not np.array_equal(noise[13], draw_noise(0, "val", 13, 100))
    assert not np.array_equal(noise[13], draw_noise(1, "train", 13, 100))


@pytest.mark.parametrize("preset", PRESETS)
def test_rejections_are_counted_and_the_next_attempt_taken(preset, monkeypatch):
    whole = ensembles.solve_certified
    reasons = [Rejection.NOT_CERTIFIED, Rejection.POSITION_OUT_OF_RANGE]
    seen = []

    def reluctant(potential, q0, p0, times, **options):
        seen.append((potential.poly_v.tobytes(), q0))
        return reasons[len(seen) - 1] if len(seen) <= 2 else whole(potential, q0, p0, times, **options)

    monkeypatch.setattr(ensembles, "solve_certified", reluctant)
    problem, rejections = draw_problem(ENSEMBLES[preset], 0, "train", 5)
    assert rejections == reasons
    assert len(set(seen)) == 3, "every attempt is another draw"
    potentials = {potential for potential, _ in seen}
    assert len(potentials) == (3 if preset == "paper" else 1), "orbits of one potential must go on sharing it"
    assert problem.trajectory_id == 5


def test_a_hopeless_ensemble_is_refused_with_its_reason():
    with pytest.raises(InputError, match=r"row 0 of split 'train' .*potential_out_of_range"):
        draw_problem(Ensemble("phase-space", depth=(30.0, 30.0)), 0, "train", 0)


@pytest.mark.parametrize(
    ("fields", "words"), [({"preset": "papr"}, "papr.*paper, phase-space"), ({"preset": "paper", "num_times": 2}, "num_times is 2")]
)
def test_ensemble_that_does_not_exist_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        Ensemble(**fields)
