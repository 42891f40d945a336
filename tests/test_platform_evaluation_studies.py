"""The studies of an evaluation, each on predictions whose quality is known beforehand. No Ray, no dataset on disk."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_helpers import PAPER, PHASE_SPACE, TIGHT, WELL, HarmonicNetwork, harmonic_problems, subject
from scipy.integrate import solve_ivp

from neural_hamilton.physics.diagnostics import jacobian_by_differences, symplecticity_defect
from neural_hamilton.physics.systems import get_system, with_role
from neural_hamilton.physics.systems.well.baselines.solver import WellSolver
from neural_hamilton.platform.evaluation.metrics import total_losses
from neural_hamilton.platform.evaluation.named import find_cases, measure_cases
from neural_hamilton.platform.evaluation.problems import draw_problems
from neural_hamilton.platform.evaluation.studies import get_study, length, sections, study_names
from neural_hamilton.platform.evaluation.studies.length import choose_solvers
from neural_hamilton.platform.evaluation.studies.rollouts import LOST, measure_rollouts
from neural_hamilton.platform.evaluation.studies.symplecticity import measure_maps
from neural_hamilton.platform.evaluation.studies.work_precision import break_even, draw_work, measure_work


@pytest.fixture(scope="module")
def drawn():
    return draw_problems(WELL, PHASE_SPACE, PHASE_SPACE, 0, 40, (50,))


@pytest.fixture(scope="module")
def chaotic_and_regular():
    """Orbits of Hénon and Heiles' family, six of each stratum of energy."""
    system = get_system("henon-heiles")
    ensemble = system.get_ensemble("section")()
    return draw_problems(system, ensemble, ensemble, 0, 24, (12, 12))


def test_every_study_is_found_under_the_name_of_its_file():
    assert len(study_names()) >= 6
    for name in study_names():
        assert get_study(name).name == name


def test_a_requirement_that_is_not_met_is_a_reason():
    fixed = subject(HarmonicNetwork(), harmonic_problems(), [], ensemble=PAPER)
    for name in ("rollouts", "symplecticity"):
        assert get_study(name).run(fixed) == {"not_measured": "the model was trained on a single initial state, q0 = 0 and p0 = 0"}


class TestNamedCases:
    FINE = WellSolver("fine", "dop853", tolerance=1e-9)

    @pytest.mark.parametrize("ensemble", [PAPER, PHASE_SPACE], ids=lambda e: e.name)
    def test_truths_are_met_by_a_fine_solver(self, ensemble):
        known = subject(HarmonicNetwork(num_sensors=100), harmonic_problems(), [self.FINE], ensemble=ensemble)
        textbook = measure_cases(known, "textbook")
        assert textbook["harmonic"]["model"] < 1e-12
        assert all(textbook[name]["fine"] < 1e-10 for name in ("harmonic", "double-well", "morse", "pendulum", "softened"))
        ladder = get_study("non_smooth").run(known)["cases"]
        assert ladder["power-law-1"]["fine"] < 1e-6 and ladder["power-law-4"]["fine"] < 1e-10 and ladder["trough"]["fine"] < 1e-6

    def test_solvers_cannot_see_a_step(self):
        """V' is zero on both sides: only the truth, which goes from event to event, turns there."""
        anywhere = subject(HarmonicNetwork(num_sensors=100), harmonic_problems(), [TIGHT])
        assert get_study("non_smooth").run(anywhere)["cases"]["stepped-well"]["tight"] > 1e-2
        from_the_wall = subject(HarmonicNetwork(num_sensors=100), harmonic_problems(), [], ensemble=PAPER)
        assert not any("step" in case.name for case in find_cases(from_the_wall, "non-smooth"))

    def test_cases_start_where_the_model_was_trained(self):
        assert {(case.q0, case.p0) for case in WELL.named_cases(PAPER.fixed_initial_state)} == {((0.0,), (0.0,))}


class TestEnsembles:
    def test_every_variant_is_measured(self):
        known = subject(HarmonicNetwork(num_sensors=40), harmonic_problems(), [TIGHT], ensemble=PAPER, study_rows=6, bootstrap=20)
        results = get_study("ensembles").run(known)
        assert list(results) == ["as trained", *PAPER.variants()]
        assert all(entry["tight"]["max"] < 1e-15 for entry in results.values())


class TestSymplecticity:
    def test_exact_motion_is_symplectic_and_its_tangents_are_exact(self):
        values, rows = measure_maps(HarmonicNetwork(), harmonic_problems())
        assert rows.size == 8 and np.all(values["symplecticity"] < 1e-10) and np.all(values["tangent_error"] < 1e-6)

    def test_stretched_motion_is_caught(self):
        values, _ = measure_maps(HarmonicNetwork(stretch=1.01), harmonic_problems())
        np.testing.assert_allclose(values["symplecticity"], 1.01**2 - 1.0, rtol=1e-6)
        np.testing.assert_allclose(values["log_volume"], 2.0 * np.log(1.01), rtol=1e-6)
        np.testing.assert_allclose(values["tangent_error"], 0.01, rtol=1e-3)

    def test_by_energy_stratum(self, drawn):
        entry = get_study("symplecticity").run(subject(HarmonicNetwork(num_sensors=50), drawn, []))
        strata = entry["groups"]["stratum"]["rows"]
        assert set(strata) == {"0", "1", "2", "3"} and sum(part["rows"] for part in strata.values()) == entry["rows"]
        assert all(set(part) == {"rows", "symplecticity", "log_volume", "tangent_error"} for part in strata.values())

    def test_general_tangents_are_those_of_the_variational_equation(self):
        from neural_hamilton.physics.systems import generic

        problems, times = harmonic_problems(3), np.tile([0.5, 2.0], (3, 1))
        arguments = problems.hamiltonians, problems.q0, problems.p0, times
        np.testing.assert_allclose(generic.tangents(WELL, *arguments), WELL.tangents(*arguments), atol=1e-6)

    def test_two_degrees_of_freedom(self):
        """A rotation of both positions and momenta is symplectic, one of the positions alone is not."""
        c, s = np.cos(0.3), np.sin(0.3)
        rotation, start = np.array([[c, -s], [s, c]]), np.array([[0.1, 0.2], [0.3, -0.4]])
        both = jacobian_by_differences(lambda q, p: (q @ rotation.T, p @ rotation.T), start, start)
        alone = jacobian_by_differences(lambda q, p: (q @ rotation.T, p), start, start)
        np.testing.assert_allclose(both, [np.kron(np.eye(2), rotation)] * 2, atol=1e-11)
        assert np.all(symplecticity_defect(both) < 1e-11) and np.all(symplecticity_defect(alone) > 0.2)


class TestRollouts:
    @staticmethod
    def measure(network, baselines=(), num_windows=5):
        problems = harmonic_problems()
        return measure_rollouts(subject(network, problems, []).predict, list(baselines), problems, num_windows, 2.0)

    def test_exact_network_stays_with_the_truth(self):
        result = self.measure(HarmonicNetwork(), [TIGHT])
        for entry in result["solvers"].values():
            assert entry["valid_time"]["median"] == 10.0 and entry["valid_time"]["fraction_to_the_end"] == 1.0
            assert max(entry["error"]) < 1e-8 and entry["drift_slope"] < 1e-9
        assert result["rows_without_certified_truth"] == 0 and result["horizon"] == 10.0

    def test_prediction_times_of_a_delay(self):
        """The error in p is at most 8 sin(2 s) amplitudes, the rms sqrt(17 / 2): 0.33 in the second window, 0.49 in the third."""
        times = self.measure(HarmonicNetwork(delay=0.03))["solvers"]["model"]["prediction_time"]
        assert 4.0 < times["error"] < 5.0
        assert set(times) == {"error", "smape"} and times["smape"] < 2.0  # near q = 0 or p = 0 the relative error is large at once
        exact = self.measure(HarmonicNetwork())["solvers"]["model"]["prediction_time"]
        assert exact == {"error": 10.0, "smape": 10.0}

    def test_prediction_times_in_lyapunov_times(self):
        surface = get_system("surface")
        ensemble = surface.get_ensemble("random")()
        problems = draw_problems(surface, ensemble, ensemble, 0, 8, (12, 12))

        def exact(given):
            return SimpleNamespace(**dict(zip("qp", surface.solve(given.hamiltonians, given.q0, given.p0, given.times), strict=True)))

        result = measure_rollouts(exact, [], problems, 2, surface.horizon)
        times = result["solvers"]["model"]["prediction_time"]
        assert times["error"] == times["smape"] == 4.0
        ends = np.full((8, 1), 4.0)
        exponents = surface.measure(problems.hamiltonians, problems.q0, problems.p0, ends)["lyapunov"]
        assert times["error_lyapunov"] == pytest.approx(np.median(4.0 * exponents), rel=1e-4)
        assert result["exponent"] == pytest.approx(np.median(exponents), rel=1e-4)

    def test_by_energy_stratum(self, drawn):
        """The strata together are the whole."""
        network = HarmonicNetwork(num_sensors=50)
        result = measure_rollouts(subject(network, drawn, []).predict, [], drawn, 2, 2.0)
        strata = result["groups"]["stratum"]["rows"]
        assert set(strata) == {"0", "1", "2", "3"} and sum(part["rows"] for part in strata.values()) == result["rows"]
        reached = [part["rows"] * part["model"]["valid_time"]["fraction_to_the_end"] for part in strata.values()]
        assert sum(reached) == pytest.approx(result["rows"] * result["solvers"]["model"]["valid_time"]["fraction_to_the_end"])

    def test_delays_add_up_and_are_called_so(self):
        """A network late by 0.01 in each window is late by 0.05 after five, at the right energy."""
        result = self.measure(HarmonicNetwork(delay=0.01))["solvers"]["model"]
        np.testing.assert_allclose(result["phase_error"], [0.01, 0.02, 0.03, 0.04, 0.05], rtol=0.02)
        assert result["drift_slope"] < 1e-9

    def test_a_network_that_loses_energy(self):
        result = self.measure(HarmonicNetwork(stretch=0.8))["solvers"]["model"]
        assert result["valid_time"]["median"] < 4.0 and result["drift_slope"] > 1e-3 and result["error"][-1] > LOST


class TestSections:
    HENON_HEILES = get_system("henon-heiles")

    def run(self, problems, loss=0.0, num_windows=40):
        """The study of a model that is exact but for a fraction of the momentum that it loses in each window."""

        def predict(given):
            q, p = self.HENON_HEILES.solve(given.hamiltonians, given.q0, given.p0, given.times)
            return SimpleNamespace(q=q, p=p * (1.0 - loss * given.times[..., None] / self.HENON_HEILES.horizon))

        baselines = self.HENON_HEILES.baselines([0.02])
        model = SimpleNamespace(
            settings=SimpleNamespace(section_windows=num_windows),
            trained_for=SimpleNamespace(horizon=self.HENON_HEILES.horizon, initial_state=None),
            problems=problems,
            system=self.HENON_HEILES,
            predict=predict,
            with_role=lambda role, _: with_role(baselines, role),
        )
        return get_study("sections").run(model)

    def test_an_exact_model_visits_what_the_exact_motion_visits(self, chaotic_and_regular):
        entry = self.run(chaotic_and_regular)
        assert set(entry["solvers"]) == {"exact", "moved", "model", "yoshida4-bicubic-0.02", "dop853-prior-fit"}
        assert entry["horizon"] == 400.0 and entry["rows"] == 12 and json.loads(json.dumps(entry)) == entry
        # Hénon and Heiles' frequencies are near 1, so an orbit crosses about once in 2 pi.
        assert all(50 < own["crossings"] < 75 for own in entry["solvers"].values())
        assert entry["solvers"]["exact"]["divergence"] == 0.0
        regular = entry["groups"]["motion"]["rows"]["regular"]
        for solver in ("moved", "model", "yoshida4-bicubic-0.02", "dop853-prior-fit"):
            assert regular[solver]["divergence"] < 0.02 and regular[solver]["energy_drift"] < 1e-4

    def test_one_that_loses_energy_does_not(self, chaotic_and_regular):
        entry, exact = self.run(chaotic_and_regular, loss=0.02), self.run(chaotic_and_regular)
        for label, part in entry["groups"]["motion"]["rows"].items():
            assert part["model"]["energy_drift"] > 0.05 and part["moved"] == exact["groups"]["motion"]["rows"][label]["moved"]
            assert part["model"]["divergence"] > (0.2 if label == "regular" else 0.0) + part["moved"]["divergence"]

    def test_groups_and_orbits(self, chaotic_and_regular):
        entry = self.run(chaotic_and_regular, num_windows=20)
        for group in entry["groups"].values():
            assert sum(part["rows"] for part in group["rows"].values()) == 12
        orbits = entry["orbits"]
        assert [orbit["stratum"] for orbit in orbits] == list(entry["groups"]["stratum"]["rows"])
        assert orbits[0]["motion"] == "regular" and all(orbit["plane"] == 0.0 for orbit in orbits)
        for orbit in orbits:
            assert set(orbit["points"]) == set(entry["solvers"]) - {"moved"} and np.shape(orbit["points"]["model"])[1] == 2
        assert len(sections.draw_sections(entry).axes) == 4 * 4

    def test_a_model_that_is_nowhere_is_drawn_all_the_same(self, chaotic_and_regular):
        entry = self.run(chaotic_and_regular, loss=np.nan, num_windows=4)
        assert entry["solvers"]["model"] == {"crossings": 0.0, "divergence": 1.0, "energy_drift": None}
        sections.draw_sections(entry)

    def test_one_degree_of_freedom_has_no_section(self):
        reason = get_study("sections").run(subject(HarmonicNetwork(), harmonic_problems(), []))["not_measured"]
        assert reason == "a Poincaré section is a plane only with two degrees of freedom, and this system has 1"


class TestSensors:
    def test_a_network_appears_where_it_reads_that_many(self, drawn):
        baselines = with_role(WELL.baselines([0.02]), "reconstructions")
        settings = {"sensor_counts": [50, 25], "noise_levels": [1e-2], "bootstrap": 20, "batch_size": 40}
        study = get_study("sensors").run(subject(HarmonicNetwork(num_sensors=25), drawn, baselines, **settings))
        assert [(entry["sensors"], entry["noise"]) for entry in study] == [(50, 0.0), (50, 1e-2), (25, 0.0), (25, 1e-2)]
        assert ["model" in entry["total_loss"] for entry in study] == [False, False, True, True]
        cubic = [entry["total_loss"]["dop853-cubic"]["mean"] for entry in study]
        assert cubic[0] < cubic[2] < max(cubic[1], cubic[3])


class TestWorkPrecision:
    def test_more_work_is_more_precise(self, drawn):
        work = measure_work(HarmonicNetwork(num_sensors=50), WELL.baselines([0.02]), drawn, [1, 20], 20)
        for method in ("stormer-verlet", "rk4"):
            lines = [line for line in work["solvers"] if line["method"] == method and line["track"] == "oracle"]
            assert len(lines) == 3 and [line["forces"] for line in lines] == sorted(line["forces"] for line in lines)
            assert [line["median"] for line in lines] == sorted((line["median"] for line in lines), reverse=True)
        assert set(work["model"]["seconds"]) == {"1", "20"} and all(seconds > 0 for seconds in work["model"]["seconds"].values())

    def test_a_panel_without_solvers_is_left_out(self):
        seconds = {"1": 1e-3, "100": 1e-4}
        model = {"median": 1e-6, "mean": 1e-6, "flops": 10, "seconds": seconds}
        for flops, panels in ((None, 3), (20.0, 4)):
            lines = [
                {"method": "rk4", "track": "sensors", "median": 1e-5, "forces": forces, "flops": flops, "seconds": seconds}
                for forces in (120.0, 900.0)
            ]
            figure = draw_work({"model": model, "solvers": lines})
            figure.canvas.draw()
            assert len(figure.axes) == panels
        minor = [label.get_text() for label in figure.axes[0].get_xticklabels(minor=True) if label.get_text()]
        assert minor == [r"$2\times10^{2}$", r"$5\times10^{2}$"]

    def test_adaptive_cost_is_scipys(self):
        problems = harmonic_problems(1)
        states = WellSolver("d", "dop853", tolerance=1e-8).states(problems)

        def slope(_, state):
            return [state[1], -16.0 * (state[0] - 0.5)]

        initial = [problems.q0[0], problems.p0[0]]
        scipy = solve_ivp(slope, (0, 2), initial, "DOP853", t_eval=problems.times[0], rtol=1e-8, atol=1e-8)
        assert abs(states.num_evaluations[0] - scipy.nfev) <= 15

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
        result = break_even(work, provenance, seconds_per_row=0.01)
        assert result["queries"] == queries and result["solver"] == "good"
        assert (queries is None) == ("reason" in result)

    def test_a_solver_without_a_finite_loss_is_no_rival(self):
        lost = {
            "model": {"median": 1e-3, "seconds": {"1": 1e-3}},
            "solvers": [{"track": "sensors", "name": "rk4", "median": None, "seconds": {"1": 1e-4}}],
        }
        assert break_even(lost, {}, 1e-4)["reason"] == "no solver on the sensors is as accurate by the median"


class TestLength:
    def test_of_each_method_the_cheapest_that_is_as_accurate(self, drawn):
        candidates = with_role(WELL.baselines([0.02]), "work-precision")
        losses = {}
        for solver in candidates:
            states = solver.states(drawn)
            losses[solver.name, solver.track] = float(np.median(total_losses(drawn, states.q, states.p)))
        chosen = choose_solvers(candidates, drawn, 1e-5)
        assert len(chosen) == len({solver.method for solver in candidates})
        for name, (solver, loss) in chosen.items():
            assert loss == losses[name, "sensors"]
            others = [other for other in candidates if other.method == solver.method and other.track == "sensors"]
            if loss <= 1e-5:  # a longer step, or a looser tolerance, is less accurate
                cheaper = [other for other in others if (other.step or other.tolerance) > (solver.step or solver.tolerance)]
                assert all(losses[other.name, "sensors"] > 1e-5 for other in cheaper)
            else:
                assert loss == min(losses[other.name, "sensors"] for other in others)
        assert any(loss <= 1e-5 for _, loss in chosen.values())
        for solver, loss in choose_solvers(candidates, drawn, 0.0).values():  # nobody is: the best
            assert loss == min(
                losses[other.name, "sensors"] for other in candidates if (other.method, other.track) == (solver.method, "sensors")
            )

    def test_longer_trajectories_cost_more(self, drawn, monkeypatch):
        monkeypatch.setattr(length, "_QUERY_TIMES", (10, 3_000))
        monkeypatch.setattr(length, "_WINDOWS", (1, 4))
        baselines = with_role(WELL.baselines([0.02]), "work-precision")
        entry = get_study("length").run(subject(HarmonicNetwork(num_sensors=50), drawn, baselines))
        assert [line["query_times"] for line in entry["query_times"]] == [10, 3_000]
        assert [line["horizon"] for line in entry["windows"]] == [2.0, 8.0]
        assert [line["rows"] for line in entry["query_times"]] == [40, 16]
        for lines in (entry["query_times"], entry["windows"]):
            for name in ("model", *entry["solvers"]):
                assert lines[1]["seconds"][name] > lines[0]["seconds"][name] > 0
        assert len(length.draw_length(entry).axes) == 2
        fixed = get_study("length").run(subject(HarmonicNetwork(num_sensors=50), drawn, baselines, ensemble=PAPER))
        assert fixed["windows"] == [] and len(length.draw_length(fixed).axes) == 1
