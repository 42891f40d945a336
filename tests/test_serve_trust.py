"""Checks of predictions: a right one is never replaced by a wrong one, and a check that cannot decide does not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import FROM_REST, HARMONIC, SENSORS, save_plane, save_tiny

import neural_hamilton as nh
from benchmarks.trust import draw, errors, measure_model, summarise
from neural_hamilton.physics import InputError
from neural_hamilton.physics.errors import shown
from neural_hamilton.physics.potentials.expressions import Expression
from neural_hamilton.physics.solvers.flows import solve_flow
from neural_hamilton.physics.systems import get_system
from neural_hamilton.physics.systems.functions import FunctionHamiltonians
from neural_hamilton.serve.model import Model, judge
from neural_hamilton.serve.problems import Problem, within_rounding
from neural_hamilton.serve.reference import known_hamiltonians, sensor_error, solve_reference
from neural_hamilton.serve.shipped import read_trained_for, shipped_models

WALL = "8*(q-0.5)**2 + 5*exp(-((q-0.5)/0.0008)**2)"
FEW_ROWS = 24


@pytest.fixture(scope="module")
def shipped():
    """A shipped model by name, loaded once."""
    loaded: dict[str, Model] = {}
    return lambda name: loaded.setdefault(name, nh.load(name))


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(save_tiny(tmp_path_factory.mktemp("random"), FROM_REST))


def exact_motion(text, times, q0=(0.0,), p0=(0.0,)):
    """q, p (T, d) in a formula, with steps that miss nothing."""
    hamiltonians = FunctionHamiltonians([Expression(text, len(q0))], ((0.0, 1.0),) * len(q0))
    start = np.array([[*q0, *p0]])
    states, _ = solve_flow(hamiltonians.flow, hamiltonians.packed, start, times[None], 1e-12, longest_step=2e-4)
    return np.split(states[0], 2, axis=-1)


class TestOnTheirOwnEnsembles:
    @pytest.mark.parametrize("name", shipped_models())
    def test_no_prediction_is_replaced_by_a_worse_one(self, shipped, name):
        result = measure_model(shipped(name), 8 if len(read_trained_for(name).sensors) > 1 else FEW_ROWS)
        assert result["refused"] == 0
        for found in result["verify"].values():
            assert found["replaced_wrongly"] == 0
            assert found["references_worse_than_claimed"] == 0
            assert found["after"]["median"] <= found["true"]["median"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", shipped_models())
    def test_nor_on_many_rows(self, shipped, name):
        result = measure_model(shipped(name), 200)
        for found in result["verify"].values():
            assert found["replaced_wrongly"] <= 1

    @pytest.mark.parametrize("name", ["mambonet", "orbitnet-25-sensors", "orbitnet-phase-space"])
    def test_the_error_charged_is_the_true_one(self, shipped, name):
        problems, asked, _ = draw(shipped(name), FEW_ROWS)
        orbits = shipped(name).predict(asked, "solver")
        true = errors(shipped(name).predict(asked, "none"), problems)
        charged = np.array([orbit.trust.solver_error for orbit in orbits])
        np.testing.assert_allclose(charged, true, rtol=1e-2, atol=1e-5)
        assert {orbit.trust.verdict for orbit in orbits} == {"accepted"}

    def test_a_wrong_prediction_is_found_from_sensors_alone(self, shipped, monkeypatch):
        model = shipped("mambonet")
        problems, asked, _ = draw(model, FEW_ROWS)
        network = model._network

        def late(fields, times, initial):
            return network(fields, 0.9 * times, initial)

        monkeypatch.setattr(model, "_network", late)
        found = summarise(orbits := model.predict(asked, "solver"), true := errors(model.predict(asked, "none"), problems), true)
        assert found["replaced"] == FEW_ROWS
        assert errors(orbits, problems).max() < 1e-4 < 0.05 < true.min()

    def test_thirteen_sensors_leave_some_rows_undecided(self, shipped):
        problems, asked, _ = draw(shipped("orbitnet-13-sensors"), 60)
        orbits = shipped("orbitnet-13-sensors").predict(asked, "solver")
        undecided = [orbit for orbit in orbits if orbit.trust.verdict == "undecided"]
        assert undecided and all(orbit.trust.source == "model" for orbit in undecided)
        assert all(orbit.trust.reference_error > 0.01 for orbit in undecided)
        assert len(undecided) < len(problems)


class TestKnownPotentials:
    @pytest.mark.parametrize("verify", ["energy", "solver"])
    @pytest.mark.parametrize("name", ["mambonet", "orbitnet"])
    @pytest.mark.parametrize("text", [WALL, "8*(q-0.5)**2 - sin(2*pi*99*q)"])
    def test_what_lies_between_sensors_is_noticed(self, shipped, name, text, verify):
        orbit = shipped(name)(text, verify=verify)
        q, p = exact_motion(text, orbit.times)
        np.testing.assert_allclose(np.stack([orbit.q, orbit.p], axis=-1), np.concatenate([q, p], axis=-1), atol=1e-6)
        assert orbit.trust.verdict == "replaced" and orbit.trust.source == "solver"
        assert orbit.trust.sensor_error > 0.1
        if verify == "solver":
            wrong = shipped(name)(text, verify="none")
            assert orbit.trust.solver_error == pytest.approx(max(abs(wrong.q - q[:, 0]).max(), abs(wrong.p - p[:, 0]).max()), rel=1e-5)
        assert orbit.hamiltonian.energy(np.array([0.5]), np.zeros(1))[0] == pytest.approx(float(Expression(text).value(np.array(0.5))))

    @pytest.mark.parametrize("text", ["8*(q-0.5)**2 + sin(2*pi*99*q)", "2-128*(q*(1-q))**2"])
    def test_a_particle_that_only_the_sensors_let_fall_is_refused(self, shipped, text):
        with pytest.raises(InputError, match=r"does not fall inward from the wall at q = 0.*make V fall there by 0\.01 or more"):
            shipped("mambonet")(text)

    def test_a_function_is_as_good_as_its_text(self, shipped):
        def recorded(q):
            return 8 * (q - 0.5) ** 2 + 5 * np.exp(-(((q - 0.5) / 0.0008) ** 2))

        def bounced(q):  # cannot be compiled
            return np.where(np.abs(q) > 1e9, 0.0, 8 * (q - 0.5) ** 2 + 5 * np.exp(-(((q - 0.5) / 0.008) ** 2)))

        model = shipped("orbitnet")
        np.testing.assert_allclose(model(recorded).q, model(WALL).q, atol=1e-7)
        orbit = model(bounced, verify="solver")
        text = WALL.replace("0.0008", "0.008")
        np.testing.assert_allclose(orbit.q, model(text, verify="solver").q, atol=1e-3 if orbit.trust.source == "model" else 1e-5)
        assert 0.0 < orbit.trust.reference_error < 1e-3

    @pytest.mark.parametrize("name", ["mambonet-surface", "fieldnet-surface"])
    def test_two_degrees_of_freedom(self, shipped, name):
        bowl, state = "2 - 48*q1*(1-q1)*q2*(1-q2)", ((0.3, 0.4), (0.5, 0.0))
        spike = bowl + "+3*exp(-((q1-0.49)**2+(q2-0.51)**2)/0.00005)"
        plain, spiked = (shipped(name)(text, *state, verify="energy") for text in (bowl, spike))
        assert plain.trust.sensor_error < 1e-12 < 0.1 < spiked.trust.sensor_error
        for orbit, text in ((plain, bowl), (spiked, spike)):
            q, p = exact_motion(text, orbit.times, *state)
            np.testing.assert_allclose(orbit.q, q, atol=1e-6)
            np.testing.assert_allclose(orbit.p, p, atol=1e-6)

    def test_sensors_of_the_same_potential_have_no_sensor_error(self, shipped):
        assert shipped("mambonet")(SENSORS, verify="energy").trust.sensor_error is None
        assert shipped("mambonet")(HARMONIC, verify="energy").trust.sensor_error < 1e-12
        assert shipped("mambonet")(HARMONIC, verify="none").trust.sensor_error is None

    def test_only_where_the_particle_may_be_counts(self):
        well = get_system("well")
        outside = known_hamiltonians("8*(q-0.5)**2+0.5*exp(-((q-0.1)/0.002)**2)", well, Problem(HARMONIC).names)[0]
        sensed = well.from_sensors({"potential": SENSORS[None]})
        assert sensor_error(well, outside, sensed, (100,), energy=1.0, scale=2.0) < 1e-12
        assert sensor_error(well, outside, sensed, (100,), energy=2.0, scale=2.0) > 0.2

    def test_a_motion_in_other_units_states_them_too(self, shipped):
        spike = {"potential": "8*(q-0.5)**2+1.5*exp(-((q-0.504)/0.0008)**2)", "domain": (-1.0, 2.0), "q0": 0.0}
        motion = nh.motion(**spike, model=shipped("orbitnet"), times=[1e-3])  # where the energy has not noticed anything
        assert motion.trust.verdict == "replaced" and motion.trust.sensor_error > 0.1
        plain = nh.motion("8*(q-0.5)**2", 0.0, domain=(-1.0, 2.0), model=shipped("orbitnet"), verify="solver")
        assert plain.trust.verdict == "accepted" and plain.trust.reference_error < 1e-8 and plain.trust.sensor_error < 1e-9


class TestReferences:
    @pytest.mark.parametrize(
        ("difference", "error", "verify", "verdict"),
        [
            (0.001, 1e-6, "solver", "accepted"),
            (0.1, 1e-6, "solver", "replaced"),
            (0.1, 0.04, "solver", "undecided"),  # the difference may be the reference's
            (0.01, 0.02, "solver", "undecided"),  # no reference to tell by
            (0.1, np.inf, "solver", "undecided"),
            (0.001, 1e-6, "energy", "replaced"),  # its energy was not trusted, and the reference is better
            (1e-6, 1e-6, "energy", "accepted"),
            (0.1, 0.04, "energy", "undecided"),
            (np.inf, 0.04, "energy", "replaced"),
        ],
    )
    def test_the_rule(self, difference, error, verify, verdict):
        assert judge(difference, error, 0.05, verify) == verdict

    def test_a_wrong_prediction_for_readings_of_no_ensemble(self, random_model):
        kink = 4 * np.abs(np.linspace(0, 1, 100) - 0.5)
        orbit = random_model(kink, verify="solver")
        assert orbit.trust.source == "solver"
        q, _ = exact_motion("4*abs(q-0.5)", orbit.times)
        assert np.abs(orbit.q - q[:, 0]).max() < 3.0 * orbit.trust.reference_error < 0.5

    def test_noise_that_no_ensemble_explains_leaves_nothing_to_compare_with(self, shipped):
        kinks = SENSORS + 0.3 * np.sin(np.arange(100) ** 2) * np.sin(np.linspace(0, np.pi, 100))
        trust = shipped("mambonet-noisy-sensors")(kinks, verify="solver").trust
        assert (trust.source, trust.verdict, trust.reference_error) == ("model", "undecided", None)

    @pytest.mark.parametrize("name", ["henon-heiles", "double-pendulum"])
    def test_members_of_a_family_are_recognised(self, name):
        system = get_system(name)
        drawn = system.rebuild({column.name: [1.1] for column in system.columns if column.name in ("coupling", "mass", "length")})
        fields = {key: values.astype(np.float32).astype(float) for key, values in drawn.sense((24, 24)).items()}
        start = np.array([[0.2, -0.3]]), np.array([[0.1, 0.2]]), np.linspace(0, system.horizon, 20)[None]
        exact = system.certify(drawn, *start, method="dop853", tolerance=1e-9)
        ours = system.plausible(fields, None, 0.0)
        assert len(ours) == 1
        np.testing.assert_allclose(solve_reference(system, ours, *start).q, exact.q, atol=1e-5)
        other = fields | {"potential": fields["potential"] + 0.01 * np.square(np.linspace(0, 1, 24))}
        splines = system.plausible(other, None, 0.0)
        assert len(splines) == 2 and 0.0 < solve_reference(system, splines, *start).error < 1.0
        assert system.plausible(other, None, 0.1) == []

    def test_without_a_calibration_nothing_is_accepted_by_its_energy(self, random_model, shipped):
        assert random_model.drift_threshold is None
        assert random_model(HARMONIC, verify="energy").trust.verdict is None
        assert shipped("mambonet")(HARMONIC, verify="energy").trust.verdict == "accepted"

    def test_preparing_them_needs_no_problem(self, random_model, tmp_path: Path):
        random_model.prepare_references()
        Model(save_plane(tmp_path)).prepare_references()


class TestEveryRowAlone:
    """What is computed beside the network does not depend on the other rows of a batch, to the last bit."""

    MODEL: Model
    TEXTS = (HARMONIC, "4*abs(q-0.5)", WALL, lambda q: 8 * (q - 0.5) ** 2)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def without_a_network(cls, random_model):
        def made_up(fields, times, initial):
            q = fields[:, 50:51] + np.sin(times)
            return q, np.cos(times) * fields[:, 10:11]

        cls.MODEL = Model(random_model.folder)
        cls.MODEL._network = made_up  # pyright: ignore[reportAttributeAccessIssue]
        cls.MODEL.solver_threshold = 1e-3

    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_alone_or_together(self, data):
        kinds = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=12))
        verify = data.draw(st.sampled_from(["none", "energy", "solver"]))
        problems = []
        for index, kind in enumerate(kinds):
            smooth = SENSORS * (1 + 0.0 * kind) - 0.01 * index * np.sin(np.linspace(0, np.pi, 100))
            times = None if kind % 2 else np.linspace(0, 2, 3 + kind)
            problems.append(Problem(self.TEXTS[kind] if kind < len(self.TEXTS) else smooth, times=times))
        together = self.MODEL.predict(problems, verify)
        for problem, orbit in zip(problems, together, strict=True):
            alone = self.MODEL.predict([problem], verify)[0]
            assert alone.trust == orbit.trust
            np.testing.assert_array_equal(alone.q, orbit.q)
            np.testing.assert_array_equal(alone.p, orbit.p)
            assert alone.energy == orbit.energy

    @given(wrong=st.integers(0, 19))
    @settings(max_examples=20, deadline=None)
    def test_a_refusal_names_its_row(self, wrong):
        potentials = [SENSORS] * wrong + [SENSORS + 0.2] + [SENSORS] * (19 - wrong)
        with pytest.raises(InputError, match=rf"^potential\[{wrong}\] is 2\.2 at q = 0"):
            self.MODEL(np.stack(potentials))
        with pytest.raises(InputError, match=rf"^potential\[{wrong}\] does not fall inward"):
            self.MODEL([HARMONIC] * wrong + ["2-128*(q*(1-q))**2"] + [HARMONIC] * (19 - wrong))


class TestRounding:
    """A number that misses a limit by rounding is taken for it, and no message contradicts itself."""

    @pytest.mark.parametrize("time", [2.0000000000000004, 2.0 * (1 + 5e-13), -1e-16])
    def test_times(self, random_model, time):
        orbit = random_model(HARMONIC, times=[0.5, time])
        assert orbit.times.tolist() == [0.5, 2.0 if time > 1 else 0.0]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"times": [2.00000000001]}, r"times\[0\] is 2\.00000000001; times must be between 0 and 2"),
            ({"times": [2.0001]}, r"times\[0\] is 2\.0001; times"),
            ({"q0": 1.00000001}, r"q0 is 1\.00000001; it must be between 0 and 1"),
            ({"q0": 0.5, "p0": 2.000001}, r"= 2\.000002 for q0 = 0\.5"),
            ({"potential": SENSORS + 0.10000001}, r"potential is 2\.10000001 at q = 0"),
            ({"potential": SENSORS * 0 + 2 - 1e-8}, r"its lowest value is 1\.99999999 and must be below 2"),
        ],
    )
    def test_messages(self, tmp_path, given, message):
        with pytest.raises(InputError, match=message):
            Model(save_tiny(tmp_path))(**({"potential": HARMONIC} | given))

    def test_states_and_walls(self, tmp_path):
        model = Model(save_tiny(tmp_path))
        assert model(HARMONIC, q0=1.0 + 1e-15).q0 == 1.0
        assert model(SENSORS + 0.1, q0=0.5).q0 == 0.5

    def test_only_rounding_is_forgiven(self):
        values = np.array([-1e-9, -1e-15, 0.0, 1.0, 1.0 + 1e-14, 1.1, np.nan, np.inf])
        expected = np.array([-1e-9, 0.0, 0.0, 1.0, 1.0, 1.1, np.nan, np.inf])
        np.testing.assert_array_equal(within_rounding(values, 0.0, 1.0), expected)

    @pytest.mark.parametrize(
        ("value", "limits", "text"),
        [
            (2.0, (2.0,), "2"),
            (2.0000004, (2.0,), "2.0000004"),
            (2.0000000000000004, (2.0,), "2.0000000000000004"),
            (0.1, (2.0, 3.0), "0.1"),
        ],
    )
    def test_shown(self, value, limits, text):
        assert shown(value, *limits) == text
