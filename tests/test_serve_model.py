"""The model in use: what it refuses, and how its drift, solver track and batches behave. No Ray, no HTTP."""

import copy
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from serving import FROM_REST, HARMONIC, SENSORS, exact_harmonic, save_tiny

from neural_hamilton.architectures import load_model, record_calibration
from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import Names, get_system
from neural_hamilton.physics.systems.generic import Solved
from neural_hamilton.serve.model import Model
from neural_hamilton.serve.problems import MAX_POINTS, MAX_TIMES, Problem
from neural_hamilton.serve.shipped import SHIPPED_MODELS, choose_model, find_model, locate_model, shipped_models

WELL = get_system("well")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)


def problem(potential, *state_and_times, **more):
    """The second problem of a request."""
    kind = "expression" if isinstance(potential, str) else "potential"
    return Problem(potential, *state_and_times, **more, names=Names(*(f"trajectories[1].{name}" for name in (kind, "q0", "p0", "times"))))


def with_value(position: int, value: float) -> np.ndarray:
    sensors = SENSORS.copy()
    sensors[position] = value
    return sensors


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (problem(SENSORS[:99]), r"trajectories\[1\]\.potential has 99 sensors; this model expects 100"),
        (problem(SENSORS[None]), r"trajectories\[1\]\.potential has 1 x 100 sensors; this model expects 100"),
        (problem(with_value(7, np.nan)), r"trajectories\[1\]\.potential\[7\] is nan"),
        (problem(with_value(7, -np.inf)), r"trajectories\[1\]\.potential\[7\] is -inf"),
        (problem(with_value(7, 1e200)), r"trajectories\[1\]\.potential\[7\] is 1e\+200"),
        (problem(with_value(0, 2.11)), r"trajectories\[1\]\.potential is 2\.11 at q = 0 and 2 at q = 1; a well has V = 2 at both walls"),
        (problem(with_value(-1, 1.89)), r"is 2 at q = 0 and 1\.89 at q = 1"),
        (problem("3*q"), r"trajectories\[1\]\.expression is 0 at q = 0 and 3 at q = 1"),
        (problem("q+"), r"trajectories\[1\]\.expression 'q\+' cannot be read"),
        (problem("2 + 0*q"), r"trajectories\[1\]\.expression has no well: its lowest value is 2"),
        (problem("2 + sin(2*pi*q)"), r"trajectories\[1\]\.expression does not fall inward from the wall at q = 0"),
        (problem("2*cos(pi*q)**2"), r"trajectories\[1\]\.expression does not fall inward from the wall at q = 0"),
        (problem("2 - sin(2*pi*q)", q0=1.0), r"trajectories\[1\]\.expression does not fall inward from the wall at q = 1"),
        (problem(HARMONIC, q0=-0.1), r"trajectories\[1\]\.q0 is -0\.1; it must be between 0 and 1"),
        (problem(HARMONIC, q0=1.1), r"trajectories\[1\]\.q0 is 1\.1"),
        (problem(HARMONIC, q0=float("nan")), r"trajectories\[1\]\.q0 is nan"),
        (problem(HARMONIC, p0=float("inf")), r"trajectories\[1\]\.p0 is inf"),
        (problem(HARMONIC, p0=0.01), r"p0\*\*2/2 \+ V\(q0\) = 2\.00005 .* leaves the walls"),
        (problem(HARMONIC, q0=0.5, p0=1e200), r"= inf for trajectories\[1\]\.q0 = 0\.5"),
        (problem(HARMONIC, q0=[0.1, 0.2]), r"trajectories\[1\]\.q0 is \[0\.1, 0\.2\]; give one number"),
        (problem(HARMONIC, q0="left"), r"trajectories\[1\]\.q0 is 'left'; give numbers"),
        (problem(HARMONIC, times=np.array([])), r"trajectories\[1\]\.times has 0 values"),
        (problem(HARMONIC, times=np.zeros(MAX_TIMES + 1)), r"trajectories\[1\]\.times has 10001 values"),
        (problem(HARMONIC, times=np.array([0.0, -1e-9])), r"trajectories\[1\]\.times\[1\] is -1e-09; times must be between 0 and 2"),
        (problem(HARMONIC, times=np.array([2.001])), r"trajectories\[1\]\.times\[0\] is 2\.001"),
        (problem(HARMONIC, times=np.array([np.nan])), r"trajectories\[1\]\.times\[0\] is nan"),
    ],
)
def test_refusals_name_the_field_and_the_value(model: Model, refused: Problem, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.predict([Problem(HARMONIC), refused])


def test_refuses_unknown_verify_too_many_points_and_bad_thresholds(model: Model, folder: Path) -> None:
    with pytest.raises(InputError, match="verify is 'twice'"):
        model.predict([Problem(HARMONIC)], "twice")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"at most {MAX_POINTS}"):
        model.predict([Problem(HARMONIC, times=np.zeros(MAX_TIMES))] * (MAX_POINTS // MAX_TIMES + 1))
    with pytest.raises(InputError, match="solver_threshold"):
        Model(folder, solver_threshold=float("nan"))


def test_accepts_walls_within_the_tolerance_and_the_highest_bound_energy(model: Model) -> None:
    orbits = model.predict([Problem(with_value(0, 2.09)), Problem(HARMONIC, q0=0.5, p0=2.0), Problem(HARMONIC, q0=1.0)])
    assert [orbit.q[0] for orbit in orbits] == pytest.approx([0.0, 0.5, 1.0])


def test_a_model_trained_for_one_initial_state_accepts_no_other(tmp_path: Path) -> None:
    model = Model(save_tiny(tmp_path, FROM_REST))
    assert model.predict([Problem(HARMONIC)])[0].q[0] == 0.0
    for refused in (Problem(HARMONIC, q0=0.3), Problem(HARMONIC, q0=0.5, p0=0.1)):
        with pytest.raises(InputError, match=r"q0 and p0 are \(0\.[35], 0(\.1)?\); this model was trained for \(0, 0\) only"):
            model.predict([refused])


def test_default_times_and_expression_equal_sensors(model: Model) -> None:
    by_expression, by_sensors, by_function = model.predict([Problem(HARMONIC), Problem(SENSORS), Problem(lambda q: 8 * (q - 0.5) ** 2)])
    np.testing.assert_array_equal(by_expression.times, np.linspace(0, WELL.horizon, 100))
    np.testing.assert_allclose(by_expression.q, by_sensors.q, atol=1e-6)
    np.testing.assert_array_equal(by_expression.q, by_function.q)


def test_predictions_are_the_networks_own(model: Model, folder: Path) -> None:
    times = np.linspace(0, 2, 5)
    orbit = model.predict([Problem(HARMONIC, 0.5, 1.0, times)], "none")[0]
    arrays = (SENSORS[None], times[None], np.array([[0.5, 1.0]]))
    with torch.inference_mode():
        output = load_model(folder)(*(torch.tensor(array, dtype=torch.float32) for array in arrays))
    np.testing.assert_allclose(orbit.q, output.q[0], atol=2e-7)  # a pass is filled up
    np.testing.assert_allclose(orbit.p, output.p[0], atol=1e-6)
    assert (orbit.trust.energy_drift, orbit.trust.solver_error, orbit.trust.source) == (None, None, "model")
    assert (orbit.q0, orbit.p0) == (0.5, 1.0)


def test_a_float64_model_predicts_in_float64(tmp_path: Path) -> None:
    model = Model(save_tiny(tmp_path, dtype=torch.float64))
    orbit = model.predict([Problem(SENSORS, 0.5, 1.0)], "solver")[0]
    arrays = (SENSORS[None], orbit.times[None], np.array([[0.5, 1.0]]))
    with torch.inference_mode():
        output = load_model(tmp_path)(*map(torch.tensor, arrays))
    expected = float(max(abs(output.q[0].numpy() - (0.5 + 0.25 * np.sin(4 * orbit.times)))))
    assert orbit.trust.solver_error is not None
    assert orbit.trust.solver_error >= expected * (1 - 1e-9)
    np.testing.assert_array_equal(model.predict([Problem(SENSORS, 0.5, 1.0)], "none")[0].q, output.q[0])


def test_energy_drift_by_hand(model: Model) -> None:
    orbit = model.predict([Problem(HARMONIC, 0.5, 1.0)], "energy")[0]
    # A cubic spline through samples of the harmonic V is the harmonic V, so H0 = 1/2 and 2 - min V = 2.
    hamiltonian = orbit.p**2 / 2 + 8 * (orbit.q - 0.5) ** 2
    assert orbit.trust.energy_drift == pytest.approx(np.max(np.abs(hamiltonian - 0.5)) / 2, rel=1e-9)
    assert orbit.trust.solver_error is None
    assert orbit.trust.source == "model"


def test_the_solver_replaces_a_bad_prediction_with_the_exact_motion(model: Model) -> None:
    times = np.random.default_rng(0).permutation(np.linspace(0, 2, 57))  # any order
    plain = model.predict([Problem(HARMONIC, times=times)], "none")[0]
    orbit = model.predict([Problem(HARMONIC, times=times)], "solver")[0]
    true_q, true_p = exact_harmonic(times)
    assert orbit.trust.source == "solver"
    np.testing.assert_allclose(orbit.q, true_q, atol=1e-10)
    np.testing.assert_allclose(orbit.p, true_p, atol=1e-10)
    expected = max(np.max(np.abs(plain.q - true_q)), np.max(np.abs(plain.p - true_p)))
    assert orbit.trust.solver_error == pytest.approx(expected, rel=1e-6)
    assert orbit.trust.energy_drift is not None
    assert orbit.trust.energy_drift < 1e-11


def test_a_prediction_within_the_threshold_is_kept(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "solver_threshold", 1e6)
    trust = model.predict([Problem(HARMONIC)], "solver")[0].trust
    assert trust.source == "model"
    assert trust.solver_error is not None
    assert trust.solver_error > 0.05


@pytest.mark.parametrize("verify", ["none", "energy", "solver"])
def test_a_prediction_that_is_not_finite_is_replaced(model: Model, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = copy.deepcopy(model._network)  # with the network in it
    with torch.no_grad():
        for parameter in broken._network.parameters():
            parameter.fill_(float("nan"))
    monkeypatch.setattr(model, "_network", broken)
    orbit = model.predict([Problem(HARMONIC)], verify)[0]  # type: ignore[arg-type]
    np.testing.assert_allclose(orbit.q, exact_harmonic(orbit.times)[0], atol=1e-10)
    assert orbit.trust.source == "solver"
    assert orbit.trust.solver_error is None
    assert (orbit.trust.energy_drift is None) == (verify == "none")
    # Where the solver fails too, the message says so.
    monkeypatch.setattr(type(WELL), "solve_closely", lambda *_: Solved(*np.full((2, 1, 100), np.nan), np.array([np.inf])))
    with pytest.raises(InputError, match=r"trajectories\[1\]\.expression has no finite trajectory"):
        model.predict([problem(HARMONIC)], verify)  # type: ignore[arg-type]


def test_batches_change_no_prediction_and_times_may_be_ragged(model: Model) -> None:
    rng = np.random.default_rng(1)
    problems = []
    for index in range(300):  # more rows than one forward pass takes
        q0 = rng.uniform(0.2, 0.8)
        times = None if index % 3 == 0 else rng.uniform(0, 2, 1 + index % 5)
        problems.append(Problem(HARMONIC if index % 2 else "625/8*(q-0.2)**2*(q-0.8)**2", q0, rng.uniform(-1, 1), times))
    orbits = model.predict(problems)
    for index in (0, 1, 2, 150, 299):
        alone = model.predict([problems[index]])[0]
        expected = 100 if problems[index].times is None else problems[index].times.size
        assert orbits[index].times.size == orbits[index].q.size == orbits[index].p.size == expected
        np.testing.assert_allclose(orbits[index].q, alone.q, atol=1e-5)
        np.testing.assert_allclose(orbits[index].p, alone.p, atol=1e-5)
        assert orbits[index].trust.energy_drift == pytest.approx(alone.trust.energy_drift, rel=1e-4)
        energies = [orbit.hamiltonian.energy(np.array([0.1]), np.array([0.0])) for orbit in (orbits[index], alone)]
        assert energies[0] == energies[1]
    assert model.predict([]) == []


def test_a_missing_or_damaged_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist"):
        Model(tmp_path / "absent")
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="checksum"):
        Model(tmp_path)


class TestCalibratedDrift:
    """Where calibration found a threshold of the energy drift, predictions beyond it are replaced by the solver's."""

    QUESTION: ClassVar = [Problem(HARMONIC, 0.3, 0.0)]

    def test_beyond_it_the_solver_is_used(self, model, monkeypatch):
        drift = model.predict(self.QUESTION)[0].trust.energy_drift
        monkeypatch.setattr(model, "drift_threshold", 1.01 * drift)
        assert model.predict(self.QUESTION)[0].trust.source == "model"
        monkeypatch.setattr(model, "drift_threshold", 0.99 * drift)
        orbit = model.predict(self.QUESTION)[0]
        assert orbit.trust.source == "solver" and orbit.trust.energy_drift < 1e-6 and orbit.trust.solver_error is None
        np.testing.assert_allclose(orbit.q, 0.5 - 0.2 * np.cos(4 * orbit.times), atol=1e-5)

    def test_it_is_read_from_the_card_and_applied_only_with_verify_energy(self, tmp_path):
        record_calibration(save_tiny(tmp_path), {"scores": {"energy_drift": {"threshold": 1e-12}}})
        strict = Model(tmp_path)
        assert strict.summary["drift_threshold"] == 1e-12
        assert strict.predict(self.QUESTION, verify="none")[0].trust.source == "model"
        assert strict.predict(self.QUESTION, verify="energy")[0].trust.source == "solver"
        record_calibration(tmp_path, {"scores": {"energy_drift": {"threshold": None}}})
        untrusted = Model(tmp_path)  # no drift separates its right predictions from its wrong ones
        assert untrusted.summary["drift_threshold"] == 0.0
        assert untrusted.predict(self.QUESTION)[0].trust.source == "solver"

    @pytest.mark.parametrize(
        "damaged", [None, {}, {"scores": None}, *({"scores": {"energy_drift": {"threshold": x}}} for x in ("high", [1]))]
    )
    def test_a_damaged_one_is_refused(self, tmp_path, damaged):
        record_calibration(save_tiny(tmp_path), damaged)
        with pytest.raises(InputError, match=r"the calibration in the model\.json of .* is damaged"):
            Model(tmp_path)


class TestShippedModels:
    """By card, not by name: copies under other names are chosen alike."""

    @pytest.mark.parametrize(
        ("state", "chosen"),
        [((), "mambonet"), ((0.0, 0.0), "mambonet"), ((0.3, None), "orbitnet-phase-space"), ((0.5, 0.8), "orbitnet-phase-space")],
    )
    def test_the_model_for_an_initial_state(self, state, chosen, tmp_path, monkeypatch):
        assert choose_model(*state).name == chosen
        for index, name in enumerate(sorted(shipped_models(), reverse=True)):
            (tmp_path / f"copy-{index}-of-{name}").mkdir()
            card = (SHIPPED_MODELS / name / "model.json").read_text()
            (tmp_path / f"copy-{index}-of-{name}" / "model.json").write_text(card)
        monkeypatch.setattr("neural_hamilton.serve.shipped.SHIPPED_MODELS", tmp_path)
        assert choose_model(*state).name.endswith(f"-of-{chosen}")

    def test_another_number_of_coordinates_is_refused(self):
        with pytest.raises(InputError, match=r"no shipped model predicts from q0 = .*; name a model folder"):
            choose_model((0.1, 0.2, 0.3), (0.0, 0.0, 0.0))

    def test_a_run_folder_suggests_its_model(self, tmp_path, folder):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "model").symlink_to(folder)
        with pytest.raises(InputError, match=r"run' is a run folder; its model is '.*run/model'"):
            find_model(tmp_path / "run")
        with pytest.raises(InputError, match="neither a model folder nor a shipped model; shipped are .*orbitnet"):
            find_model(tmp_path / "absent")

    def test_a_folder_goes_before_a_name(self, tmp_path, folder, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert find_model("orbitnet") == SHIPPED_MODELS / "orbitnet"
        (tmp_path / "orbitnet").symlink_to(folder)
        assert find_model("orbitnet") == Path("orbitnet")

    def test_a_folder_without_a_model_does_not_go_before_a_name(self, tmp_path, folder, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "orbitnet").mkdir()
        (tmp_path / "orbitnet" / "notes.txt").touch()
        assert find_model("orbitnet") == locate_model("orbitnet") == SHIPPED_MODELS / "orbitnet"
        (tmp_path / "orbitnet" / "model").symlink_to(folder)  # a run
        with pytest.raises(InputError, match="'orbitnet' is a run folder"):
            find_model("orbitnet")
