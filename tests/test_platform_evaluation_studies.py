"""The studies of an evaluation: each on answers whose worth is known beforehand. No Ray, no dataset on disk."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import spearmanr

from neural_hamilton.architectures import Answer, ArchitectureConfig, Operator
from neural_hamilton.physics import NAMED_POTENTIALS, Curves
from neural_hamilton.physics.ensembles import Ensemble
from neural_hamilton.platform.evaluation import work_precision
from neural_hamilton.platform.evaluation.answers import Answers, predict, solve
from neural_hamilton.platform.evaluation.calibration import calibrate, ode_defect, score_answers
from neural_hamilton.platform.evaluation.metrics import group_by_separatrix, group_by_stratum, measure
from neural_hamilton.platform.evaluation.problems import Problems
from neural_hamilton.platform.evaluation.solvers import Baseline, default_baselines, reconstruct, run_solver
from neural_hamilton.platform.evaluation.studies.families import measure_ensembles, measure_rough, measure_textbook, rough_potentials
from neural_hamilton.platform.evaluation.studies.rollouts import LOST, measure_horizons
from neural_hamilton.platform.evaluation.studies.sensors import study_sensors
from neural_hamilton.platform.evaluation.studies.symplecticity import measure_maps

TIGHT = Baseline("tight", "dop853", "exact", tolerance=1e-12)


class HarmonicNetwork(Operator):
    """Exact in 8 (q - 1/2)^2 from any start, whatever potential it is given; but for a delay and a factor on the energy."""

    def __init__(self, delay: float = 0.0, stretch: float = 1.0, num_sensors: int = 40) -> None:
        super().__init__(ArchitectureConfig(name="harmonic", num_sensors=num_sensors, hard_initial_condition=False))
        self.delay, self.stretch = delay, stretch
        self.double()

    def answer(self, potential_BS, times_BT, initial_B2):
        q0, p0 = (initial_B2[:, i : i + 1] for i in (0, 1))
        phase = 4.0 * (times_BT - self.delay)
        q = 0.5 + self.stretch * ((q0 - 0.5) * phase.cos() + p0 / 4.0 * phase.sin())
        p = self.stretch * (p0 * phase.cos() - 4.0 * (q0 - 0.5) * phase.sin())
        return Answer(torch.stack([q, p], dim=-1), q.new_zeros(()))


def harmonic_problems(count=8, num_sensors=40, num_times=25):
    rng = np.random.default_rng(0)
    initial = np.stack([rng.uniform(0.2, 0.8, count), rng.uniform(-1.0, 1.0, count)], axis=1)
    times = np.tile(np.linspace(0.0, 2.0, num_times), (count, 1))
    curve = Curves.from_samples(NAMED_POTENTIALS["harmonic"].value(np.linspace(0, 1, num_sensors)))
    q0, p0 = initial[:, :1], initial[:, 1:]
    q, p = 0.5 + (q0 - 0.5) * np.cos(4 * times) + p0 / 4 * np.sin(4 * times), p0 * np.cos(4 * times) - 4 * (q0 - 0.5) * np.sin(4 * times)
    energy = 0.5 * p0[:, 0] ** 2 + 8 * (q0[:, 0] - 0.5) ** 2
    sensors = np.tile(NAMED_POTENTIALS["harmonic"].value(np.linspace(0, 1, num_sensors)), (count, 1))
    return Problems([curve] * count, sensors, times, initial, q, p, energy, np.zeros(count), 0.0)


@pytest.fixture(scope="module")
def drawn():
    return Problems.draw(Ensemble("phase-space", num_times=20), seed=0, count=40, num_sensors=50)


class TestProblems:
    def test_drawn_problems_are_solved_by_their_own_potentials(self, drawn):
        answer = solve(TIGHT, reconstruct("exact", drawn), drawn)
        assert np.all(measure(drawn, answer.q, answer.p)["total_loss"] < 1e-15)

    def test_a_network_that_knows_the_answer_has_no_loss(self):
        problems = harmonic_problems()
        metrics = measure(problems, *_states(predict(HarmonicNetwork(), problems, 3)))
        assert all(np.all(values < 1e-13) for values in metrics.values())

    def test_other_sensors_read_the_same_potentials(self, drawn):
        fewer, noisy = drawn.at_sensors(13), drawn.at_sensors(13, noise=0.1)
        assert fewer.sensors.shape == (40, 13)
        np.testing.assert_allclose(fewer.sensors, [c.value(np.linspace(0, 1, 13)) for c in drawn.exact], rtol=1e-7, atol=1e-7)
        assert np.std(noisy.sensors - fewer.sensors) == pytest.approx(0.1, rel=0.15)
        np.testing.assert_array_equal(noisy.sensors, drawn.at_sensors(13, noise=0.1).sensors)

    def test_noise_stays_with_its_problems_and_solvers_hear_of_it(self, drawn):
        noisy = drawn.at_sensors(13, noise=0.1).take(slice(20))
        assert (noisy.noise, drawn.noise, noisy.at_sensors(13).noise) == (0.1, 0.0, 0.0)
        walls = [curve.value(np.array([0.0, 1.0])) for curve in reconstruct("cubic", noisy).curves]
        np.testing.assert_allclose(walls, 2.0, rtol=1e-12)

    def test_groups_are_a_partition(self, drawn):
        for groups in (group_by_stratum(drawn), group_by_separatrix(drawn)):
            assert np.all(np.sum(list(groups.values()), axis=0) == 1)
        assert set(group_by_stratum(drawn)) == {"0", "1", "2", "3"}

    def test_separatrix_distance_is_that_of_a_dense_grid(self, drawn):
        grid = np.linspace(0, 1, 20_001)
        for curve, energy, found in zip(drawn.exact, drawn.energy, drawn.exact.separatrix_distance(drawn.energy), strict=True):
            values = curve.value(grid)
            tops = values[1:-1][(values[1:-1] > values[:-2]) & (values[1:-1] >= values[2:])]
            expected = np.min(np.abs(energy - tops), initial=np.inf)
            assert found == pytest.approx(expected, abs=1e-6)


class TestBaselines:
    def test_order_of_accuracy_on_the_same_problems(self, drawn):
        """Knowing more is never worth less: V itself, the family of V, a smooth interpolant; and the published scheme is last."""
        losses = {}
        for baseline in default_baselines([0.02]):
            solution = run_solver(baseline, reconstruct(baseline.potential, drawn).curves, drawn)
            losses[baseline.name] = np.median(measure(drawn, solution.q, solution.p)["total_loss"])
        assert losses["dop853-oracle"] < 1e-14 and losses["dop853-prior-fit"] < 1e-12
        assert losses["dop853-prior-fit"] < losses["dop853-quintic"] < losses["dop853-cubic"] < losses["dop853-hermite"]
        assert losses["stormer-verlet-oracle-0.02"] > 100 * losses["yoshida4-oracle-0.02"]
        assert losses["rk4-as-published"] > losses["dop853-hermite"]

    def test_a_potential_outside_the_family_is_given_its_spline(self):
        problems = harmonic_problems(2)
        tent = np.tile(4.0 * np.abs(np.linspace(0, 1, 40) - 0.5), (2, 1))
        fitted = reconstruct("prior-fit", Problems(**{**vars(problems), "sensors": tent}))
        np.testing.assert_array_equal(fitted.curves[0].poly_v, Curves.from_samples(tent[0]).poly_v)


class TestFamilies:
    def test_textbook_and_rough_truths_are_met_by_a_fine_solver(self):
        fine = Baseline("fine", "dop853", "exact", tolerance=1e-9)
        network = HarmonicNetwork(num_sensors=100)
        for preset in ("paper", "phase-space"):
            textbook = measure_textbook(network, [fine], preset)
            assert textbook["harmonic"]["model"] < 1e-12
            assert all(textbook[name]["fine"] < 1e-10 for name in ("harmonic", "double-well", "morse", "pendulum", "softened"))
            rough = measure_rough(network, [fine], preset)
            assert rough["power-law-1"]["fine"] < 1e-6 and rough["power-law-4"]["fine"] < 1e-10 and rough["trough"]["fine"] < 1e-6

    def test_solvers_cannot_see_a_step(self):
        """V' is zero on both sides: only the truth, which goes from event to event, turns there."""
        losses = measure_rough(HarmonicNetwork(num_sensors=100), [TIGHT], "phase-space")
        assert losses["stepped-well"]["tight"] > 1e-2
        assert not any("step" in potential.name for potential, _ in rough_potentials("paper"))

    def test_other_ensembles(self):
        results = measure_ensembles(HarmonicNetwork(num_sensors=40), [TIGHT], "paper", 6, 20, 0, 6)
        assert len(results) == 6 and all(entry["tight"]["max"] < 1e-15 for entry in results.values())


class TestMaps:
    def test_exact_motion_is_symplectic_and_its_tangents_are_exact(self):
        values, rows = measure_maps(HarmonicNetwork(), harmonic_problems())
        assert rows.size == 8 and np.all(values["symplecticity"] < 1e-10) and np.all(values["tangent_error"] < 1e-6)

    def test_stretched_motion_is_caught(self):
        values, _ = measure_maps(HarmonicNetwork(stretch=1.01), harmonic_problems())
        np.testing.assert_allclose(values["symplecticity"], 1.01**2 - 1.0, rtol=1e-6)
        np.testing.assert_allclose(values["tangent_error"], 0.01, rtol=1e-3)


class TestHorizons:
    def test_exact_network_stays_with_the_truth(self):
        result = measure_horizons(HarmonicNetwork(), [TIGHT], harmonic_problems(), num_windows=5, batch_size=8)
        for entry in result["solvers"].values():
            assert entry["valid_time"]["median"] == 10.0 and entry["valid_time"]["share_to_the_end"] == 1.0
            assert max(entry["error"]) < 1e-8 and entry["drift_slope"] < 1e-9
        assert result["rows_without_certified_truth"] == 0

    def test_delays_add_up_and_are_called_so(self):
        """A network late by 0.01 a window is late by 0.05 after five, at the right energy."""
        result = measure_horizons(HarmonicNetwork(delay=0.01), [], harmonic_problems(), num_windows=5, batch_size=8)["solvers"]["model"]
        np.testing.assert_allclose(result["phase_error"], [0.01, 0.02, 0.03, 0.04, 0.05], rtol=0.02)
        assert result["drift_slope"] < 1e-9

    def test_a_network_that_loses_energy(self):
        result = measure_horizons(HarmonicNetwork(stretch=0.8), [], harmonic_problems(), num_windows=5, batch_size=8)["solvers"]["model"]
        assert result["valid_time"]["median"] < 4.0 and result["drift_slope"] > 1e-3 and result["error"][-1] > LOST


class TestSensorStudy:
    def test_networks_stand_where_they_read_that_many(self, drawn):
        study = study_sensors(
            {"network": HarmonicNetwork(num_sensors=25)}, drawn, [50, 25], [1e-2], resamples=20, seed=0, batch_size=40
        )  # fmt: skip
        assert [(entry["sensors"], entry["noise"]) for entry in study] == [(50, 0.0), (50, 1e-2), (25, 0.0), (25, 1e-2)]
        assert ["network" in entry["total_loss"] for entry in study] == [False, False, True, True]
        cubic = [entry["total_loss"]["dop853-cubic"]["mean"] for entry in study]
        assert cubic[0] < cubic[2] < max(cubic[1], cubic[3])


class TestCalibration:
    def test_defect_of_exact_motion_is_of_fourth_order(self):
        defects = []
        for count in (25, 50):
            problems = harmonic_problems(num_times=count)
            force, bend = -16.0 * (problems.q - 0.5), np.full_like(problems.q, 16.0)
            defects.append(ode_defect(problems.times, problems.q, problems.p, force, bend))
        assert np.median(np.log2(defects[0] / defects[1])) == pytest.approx(4.0, abs=0.3)

    def test_defect_sees_what_energy_does_not(self):
        """Motion along the right orbit by a wrong clock keeps the energy, and breaks the equation."""
        problems = harmonic_problems()
        hurried = np.sin(3.6 * problems.times)
        q, p = 0.5 + 0.1 * hurried, 0.4 * np.cos(3.6 * problems.times)
        wrong = ode_defect(problems.times, q, p, -16.0 * (q - 0.5), np.full_like(q, 16.0))
        assert np.all(wrong > 1e-2)

    def test_scores_rank_growing_errors(self):
        problems = harmonic_problems(40)
        size = np.geomspace(1e-4, 0.1, 40)[:, None]
        q, p = problems.q + size * np.sin(7 * problems.times), problems.p + size * np.cos(5 * problems.times)
        scores = score_answers(problems, [problems.exact[0]] * 40, q, p)
        result = calibrate(problems, scores, q, p, tolerated=0.01, risk=0.3)
        errors = np.maximum(np.abs(q - problems.q).max(axis=1), np.abs(p - problems.p).max(axis=1))
        for name, entry in result["scores"].items():
            assert entry["rank_correlation"] == pytest.approx(spearmanr(scores[name], errors).statistic) and entry["rank_correlation"] > 0.9
            accepted = scores[name] <= entry["threshold"]
            assert accepted.mean() == pytest.approx(entry["coverage"]) and np.mean(errors[accepted] > 0.01) <= 0.3
            assert entry["curve"][-1]["coverage"] == 1.0 and entry["curve"][-1]["worst_error"] == pytest.approx(errors.max())

    @given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.5))
    def test_threshold_keeps_its_promise_on_what_it_saw(self, seed, share):
        rng = np.random.default_rng(seed)
        problems = harmonic_problems(60)
        q = problems.q + np.where(rng.random(60) < share, 0.1, 1e-4)[:, None]
        entry = calibrate(problems, {"noise": rng.random(60)}, q, problems.p, tolerated=0.01, risk=0.2)["scores"]["noise"]
        if entry["threshold"] is None:
            assert entry["coverage"] == 0.0
        else:
            assert entry["coverage"] * 60 >= math.log(0.05) / math.log(0.8) - 1  # fewer right answers than this prove nothing

    def test_a_score_that_knows_nothing_is_trusted_as_rarely_as_promised(self):
        """More are wrong than may be; with 95% confidence no threshold is then found, however many are tried."""
        rng, problems, found = np.random.default_rng(0), harmonic_problems(300), 0
        for _ in range(200):
            q = problems.q + np.where(rng.random(300) < 0.1, 0.1, 1e-4)[:, None]
            found += calibrate(problems, {"s": rng.random(300)}, q, problems.p, 0.01, risk=0.09)["scores"]["s"]["threshold"] is not None
        assert found <= 18  # of 200, 10 are expected at most; that 5% give 19 or more has a chance of 1%

    def test_too_few_rows_give_no_threshold(self):
        problems = harmonic_problems(8)
        entry = calibrate(problems, {"s": np.arange(8.0)}, problems.q, problems.p, 0.01, 0.01)["scores"]["s"]
        assert entry["threshold"] is None and entry["rank_correlation"] is None


class TestWork:
    def test_finer_is_dearer_and_closer(self, drawn):
        work = work_precision.study_work(HarmonicNetwork(num_sensors=50), drawn, [1, 20], 20)
        for method in ("stormer-verlet", "rk4"):
            lines = [line for line in work["solvers"] if line["method"] == method and line["track"] == "oracle"]
            assert [line["forces"] for line in lines] == sorted(line["forces"] for line in lines)
            assert [line["median"] for line in lines] == sorted((line["median"] for line in lines), reverse=True)
        assert set(work["model"]["seconds"]) == {"1", "20"} and all(seconds > 0 for seconds in work["model"]["seconds"].values())

    def test_adaptive_cost_is_scipys(self):
        problems = harmonic_problems(1)
        solution = run_solver(Baseline("d", "dop853", "exact", tolerance=1e-8), problems.exact, problems)

        def slope(_, state):
            return [state[1], -float(problems.exact[0].gradient(np.array(state[0])))]

        scipy = solve_ivp(slope, (0, 2), problems.initial[0], "DOP853", t_eval=problems.times[0], rtol=1e-8, atol=1e-8)
        assert abs(solution.num_evaluations[0] - scipy.nfev) <= 15

    @pytest.mark.parametrize(
        ("solver_seconds", "model_seconds", "provenance", "queries"),
        [
            (3e-3, 1e-3, {"seconds": 50.0, "rows_drawn": 1000}, 30_000),
            (1e-3, 3e-3, {"seconds": 50.0, "rows_drawn": 1000}, None),
            (3e-3, 1e-3, {}, None),
        ],
    )
    def test_break_even(self, solver_seconds, model_seconds, provenance, queries):
        lines = [
            {"name": "good", "track": "sensors", "median": 1e-9, "seconds": {"1": 1.0, "100": solver_seconds}},
            {"name": "oracle", "track": "oracle", "median": 1e-9, "seconds": {"1": 1.0, "100": 1e-9}},
            {"name": "poor", "track": "sensors", "median": 1e-3, "seconds": {"1": 1.0, "100": 1e-9}},
        ]
        work = {"solvers": lines, "model": {"median": 1e-6, "seconds": {"1": 1.0, "100": model_seconds}}}
        result = work_precision.break_even(work, {"provenance": provenance}, seconds_per_row=0.01)
        assert result["queries"] == queries and result["solver"] == "good"
        assert (queries is None) == ("reason" in result)


def _states(answer: Answers):
    return answer.q, answer.p
