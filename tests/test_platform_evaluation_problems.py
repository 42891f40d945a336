"""Problems, reconstructions and baselines of an evaluation."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_helpers import PAPER, PHASE_SPACE, TIGHT, WELL, HarmonicNetwork, harmonic_problems

from neural_hamilton.physics.potentials.curves import Curves
from neural_hamilton.physics.systems import FixedSteps, Predictions, Problems, get_system, with_role
from neural_hamilton.physics.systems.baselines import general_baselines
from neural_hamilton.physics.systems.generic import ORDER_8, RK4
from neural_hamilton.physics.systems.well.baselines.reconstructions import INTERPOLATED, PRIOR_FIT
from neural_hamilton.platform.evaluation.figures import draw_case
from neural_hamilton.platform.evaluation.metrics import measure
from neural_hamilton.platform.evaluation.predictions import predict
from neural_hamilton.platform.evaluation.problems import draw_problems


@pytest.fixture(scope="module")
def drawn():
    return draw_problems(WELL, PHASE_SPACE, PHASE_SPACE, 0, 40, (50,))


def median_loss(baseline, problems):
    states = baseline.states(problems)
    return float(np.median(measure(problems, states.q, states.p)["total_loss"]))


class TestProblems:
    def test_drawn_problems_are_solved_by_their_own_potentials(self, drawn):
        states = TIGHT.states(drawn)
        assert np.all(measure(drawn, states.q, states.p)["total_loss"] < 1e-15)

    def test_an_exact_network_has_no_loss(self):
        problems = harmonic_problems()
        prediction = predict(HarmonicNetwork(), problems, 3)
        metrics = measure(problems, prediction.q, prediction.p)
        assert all(np.all(values < 1e-13) for values in metrics.values())

    def test_other_sensors_read_the_same_potentials(self, drawn):
        fewer, noisy = drawn.at_sensors((13,)), drawn.at_sensors((13,), noise=0.1)
        readings = fewer.fields["potential"]
        assert fewer.sensors == (13,) and readings.shape == (40, 13)
        expected = drawn.hamiltonians.potential(np.tile(np.linspace(0, 1, 13), (40, 1)))
        np.testing.assert_allclose(readings, expected, rtol=1e-7, atol=1e-7)
        assert np.std(noisy.fields["potential"] - readings) == pytest.approx(0.1, rel=0.15)
        np.testing.assert_array_equal(noisy.fields["potential"], drawn.at_sensors((13,), noise=0.1).fields["potential"])

    def test_noise_stays_with_its_problems_and_the_walls_hold_against_it(self, drawn):
        noisy = drawn.at_sensors((13,), noise=0.1).take(slice(20))
        assert (noisy.noise, drawn.noise, noisy.at_sensors((13,)).noise) == (0.1, 0.0, 0.0)
        walls = noisy.rebuilt(INTERPOLATED["cubic"]).hamiltonians.potential(np.tile([0.0, 1.0], (20, 1)))
        np.testing.assert_allclose(walls, 2.0, rtol=1e-12)

    def test_groups_are_a_partition(self, drawn):
        groups = {group.name: group.rows for group in WELL.groups(drawn)}
        assert set(groups) == {"stratum", "separatrix"} and set(groups["stratum"]) == {"0", "1", "2", "3"}
        for rows in groups.values():
            assert np.all(np.sum(list(rows.values()), axis=0) == 1)
        assert [group.name for group in WELL.groups(draw_problems(WELL, PAPER, PAPER, 0, 2, (20,)))] == ["separatrix"]

    def test_separatrix_distance_is_that_of_a_dense_grid(self, drawn):
        grid = np.linspace(0, 1, 20_001)
        values = drawn.hamiltonians.potential(np.tile(grid, (40, 1)))
        distance = drawn.hamiltonians.curves.separatrix_distance(drawn.energy)
        for row, energy, found in zip(values, drawn.energy, distance, strict=True):
            tops = row[1:-1][(row[1:-1] > row[:-2]) & (row[1:-1] >= row[2:])]
            assert found == pytest.approx(np.min(np.abs(energy - tops), initial=np.inf), abs=1e-6)


class TestBaselines:
    def test_order_of_accuracy_on_the_same_problems(self, drawn):
        """Knowing more is never worth less: V itself, the family of V, a smooth interpolant; and the published scheme is last."""
        losses = {baseline.name: median_loss(baseline, drawn) for baseline in with_role(WELL.baselines([0.02]), "table")}
        assert losses["dop853-oracle"] < 1e-14 and losses["dop853-prior-fit"] < 1e-12
        assert losses["dop853-prior-fit"] < losses["dop853-quintic"] < losses["dop853-cubic"] < losses["dop853-hermite"]
        assert losses["stormer-verlet-oracle-0.02"] > 100 * losses["yoshida4-oracle-0.02"]
        assert losses["rk4-as-published"] > losses["dop853-hermite"]

    def test_names_are_unique_where_results_are_kept_by_name(self):
        for role in ("table", "figures", "studies", "rollouts", "reconstructions"):
            names = [baseline.name for baseline in with_role(WELL.baselines([0.02, 0.001]), role)]
            assert names and len(set(names)) == len(names)

    def test_a_potential_outside_the_family_is_given_its_spline(self):
        problems = harmonic_problems(2)
        tent = np.tile(4.0 * np.abs(np.linspace(0, 1, 40) - 0.5), (2, 1))
        tents = Problems(**{name: getattr(problems, name) for name in problems.__dataclass_fields__} | {"fields": {"potential": tent}})
        np.testing.assert_array_equal(PRIOR_FIT.rebuild(tents).curves[0].poly_v, Curves.from_samples(tent[0]).poly_v)

    def test_too_few_sensors_and_a_foreign_ensemble_are_reasons(self):
        few = harmonic_problems(2, num_sensors=4)
        assert "needs 6 sensors along each axis, and the problems have 4" in INTERPOLATED["quintic"].why_not(few)
        assert INTERPOLATED["cubic"].why_not(few) is None

        class Bare:
            name = "bare"

        other = Problems(**{name: getattr(few, name) for name in few.__dataclass_fields__} | {"ensemble": Bare()})
        assert "ensemble 'bare' draws none" in PRIOR_FIT.why_not(other)

    def test_a_reconstruction_is_made_once(self):
        problems = harmonic_problems()
        assert problems.rebuilt(INTERPOLATED["cubic"]) is problems.rebuilt(INTERPOLATED["cubic"])
        assert TIGHT.rebuild(problems).hamiltonians is problems.hamiltonians

    def test_time_of_the_reconstruction_counts(self):
        problems = harmonic_problems()
        cubic = next(b for b in WELL.baselines([0.02]) if b.name == "dop853-cubic")
        assert cubic.solve(problems).seconds_each > cubic.rebuild(problems).seconds_each > 0.0

    def test_general_baselines_converge_at_their_order(self):
        """Any system has them; on the well they agree with the compiled ones."""
        problems = harmonic_problems(num_times=3)
        for scheme, order in ((RK4, 4), (ORDER_8, 8)):
            errors = []
            for step in (0.2, 0.1):
                states = FixedSteps("x", "x", scheme=scheme, step=step).states(problems)
                errors.append(np.abs(states.q - problems.q).max())
            assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.6)
        losses = {b.name: median_loss(b, problems) for b in with_role(general_baselines(WELL, [0.02]), "table")}
        assert losses["dop853-oracle"] < 1e-20 and losses["dop853-spline"] < 1e-12 and losses["rk4-oracle-0.02"] < 1e-9


@pytest.mark.parametrize("name", ["surface", "henon-heiles", "double-pendulum"])
def test_groups_of_two_degrees_of_freedom_are_partitions(name):
    """By the range that the energy was drawn from, and by the stretching over the horizon."""
    system = get_system(name)
    ensemble = next(iter(system.ensembles.values()))()
    problems = draw_problems(system, ensemble, ensemble, 0, 40, (12, 12))
    groups = {group.name: group.rows for group in system.groups(problems)}
    assert set(groups) == {"stratum", "lyapunov"}
    for rows in groups.values():
        np.testing.assert_array_equal(np.sum(list(rows.values()), axis=0), 1)
    for k, ((low, high), rows) in enumerate(zip(system.energy_strata, groups["stratum"].values(), strict=True)):
        np.testing.assert_array_equal(rows, problems.columns["stratum"] == k)
        assert list(groups["stratum"])[k] == f"{low:g} to {high:g}"
    folds = system.horizon * problems.columns["lyapunov"]
    assert folds[groups["lyapunov"]["1 to 2"]].max(initial=1.0) < 2.0 <= folds[groups["lyapunov"]["2 to 3"]].min(initial=2.0)
    assert system.groups(replace(problems, columns={})) == []


@pytest.mark.parametrize("name", ["surface", "henon-heiles", "double-pendulum"])
def test_a_case_is_drawn_with_each_coordinate(name):
    """Over the plane of V, with the scale of the truth where the prediction runs away, and without one that is nowhere."""
    system = get_system(name)
    ensemble = next(iter(system.ensembles.values()))()
    problems = draw_problems(system, ensemble, ensemble, 0, 4, (12, 12))
    away = 1e3 * problems.times[..., None]
    for q, p in ((problems.q + away, problems.p - away), (np.full_like(problems.q, np.nan), problems.p)):
        figure = draw_case(problems, Predictions(q, p, 0.0), 3)
        figure.canvas.draw()
        plane, q1, q2, errors, p1, p2, _ = figure.axes  # and the colour bar
        assert (plane.get_xlabel(), plane.get_ylabel(), errors.get_xlabel()) == ("q1", "q2", "t")
        for axis, truth in ((q1, problems.q[3, :, 0]), (q2, problems.q[3, :, 1]), (p1, problems.p[3, :, 0]), (p2, problems.p[3, :, 1])):
            low, high = axis.get_ylim()
            assert low < truth.min() and high > truth.max() and high - low <= 3.001 * np.ptp(truth)
