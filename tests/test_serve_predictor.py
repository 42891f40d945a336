"""The predictor: what it refuses, and what its drift, solver track and batches are worth. No Ray, no HTTP."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neural_hamilton.architectures import build_operator, load_model, parse_architecture, record_calibration, save_model
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config.data import DataConfig
from neural_hamilton.platform.training.trained_for import task_of, trained_for
from neural_hamilton.serve import Predictor, Query
from neural_hamilton.serve.predictor import MAX_POINTS, MAX_TIMES

NUM_SENSORS = 100
HARMONIC = "8*(q-0.5)**2"
SENSORS = 8 * (np.linspace(0, 1, NUM_SENSORS) - 0.5) ** 2


def save_tiny(folder: Path, preset: str) -> Path:
    """A random network whose predictions are wrong: an untrained orbitnet would be too good."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_mamba_layers": 1, "d_state": 4, "num_heads": 2, "num_decoder_layers": 1, "d_feedforward": 32}
    data = DataConfig(preset=preset, sensors=NUM_SENSORS)
    model = build_operator(parse_architecture({"name": "mambonet", "phase_angle": True} | sizes), task_of(data))
    save_model(model, folder, trained_for(data), {})
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), "phase-space")


@pytest.fixture(scope="session")
def predictor(folder: Path) -> Predictor:
    return Predictor(folder)


def with_value(position: int, value: float) -> np.ndarray:
    sensors = SENSORS.copy()
    sensors[position] = value
    return sensors


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(SENSORS[:99]), r"trajectories\[1\]\.potential has 99 sensors; this model expects 100"),
        (Query(SENSORS[None]), r"trajectories\[1\]\.potential has an array of shape"),
        (Query(with_value(7, np.nan)), r"trajectories\[1\]\.potential\[7\] is nan"),
        (Query(with_value(7, -np.inf)), r"trajectories\[1\]\.potential\[7\] is -inf"),
        (Query(with_value(7, 1e200)), r"trajectories\[1\]\.potential\[7\] is 1e\+200"),
        (Query(with_value(0, 2.11)), r"trajectories\[1\]\.potential is 2\.11 at q = 0 and 2 at q = 1; the model was trained with V = 2"),
        (Query(with_value(-1, 1.89)), r"is 2 at q = 0 and 1\.89 at q = 1"),
        (Query("3*q"), r"trajectories\[1\]\.expression is 0 at q = 0 and 3 at q = 1"),
        (Query("q+"), r"trajectories\[1\]\.expression 'q\+' cannot be read"),
        (Query("2 + 0*q"), r"trajectories\[1\]: the potential has no well; its lowest value is 2"),
        (Query("2 + sin(2*pi*q)"), r"trajectories\[1\]: the potential rises inward from the wall at q = 0"),
        (Query("2 - sin(2*pi*q)", q0=1.0), r"trajectories\[1\]: the potential rises inward from the wall at q = 1"),
        (Query(HARMONIC, q0=-0.1), r"trajectories\[1\]\.q0 is -0\.1; it must be between 0 and 1"),
        (Query(HARMONIC, q0=1.1), r"trajectories\[1\]\.q0 is 1\.1"),
        (Query(HARMONIC, q0=float("nan")), r"trajectories\[1\]\.q0 is nan"),
        (Query(HARMONIC, p0=float("inf")), r"trajectories\[1\]\.p0 is inf"),
        (Query(HARMONIC, p0=0.01), r"p0\*\*2/2 \+ V\(q0\) is 2\.00005 .* leaves the walls"),
        (Query(HARMONIC, q0=0.5, p0=1e200), r"is inf for trajectories\[1\]\.q0 = 0\.5"),
        (Query(HARMONIC, times=np.array([])), r"trajectories\[1\]\.times has 0 values"),
        (Query(HARMONIC, times=np.zeros(MAX_TIMES + 1)), r"trajectories\[1\]\.times has 10001 values"),
        (Query(HARMONIC, times=np.array([0.0, -1e-9])), r"trajectories\[1\]\.times\[1\] is -1e-09; times must be between 0 and 2"),
        (Query(HARMONIC, times=np.array([2.001])), r"trajectories\[1\]\.times\[0\] is 2\.001"),
        (Query(HARMONIC, times=np.array([np.nan])), r"trajectories\[1\]\.times\[0\] is nan"),
    ],
)
def test_refusals_name_the_field_and_the_value(predictor: Predictor, query: Query, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor.predict([Query(HARMONIC), query])


def test_refuses_unknown_verify_too_many_points_and_bad_thresholds(predictor: Predictor, folder: Path) -> None:
    with pytest.raises(InputError, match="verify is 'twice'"):
        predictor.predict([Query(HARMONIC)], "twice")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"at most {MAX_POINTS}"):
        predictor.predict([Query(HARMONIC, times=np.zeros(MAX_TIMES))] * (MAX_POINTS // MAX_TIMES + 1))
    with pytest.raises(InputError, match="solver_threshold"):
        Predictor(folder, solver_threshold=float("nan"))


def test_accepts_walls_within_the_tolerance_and_the_highest_bound_energy(predictor: Predictor) -> None:
    answers = predictor.predict([Query(with_value(0, 2.09)), Query(HARMONIC, q0=0.5, p0=2.0), Query(HARMONIC, q0=1.0)])
    assert [answer.q[0] for answer in answers] == pytest.approx([0.0, 0.5, 1.0])


def test_a_paper_model_knows_one_start(tmp_path: Path) -> None:
    predictor = Predictor(save_tiny(tmp_path, "paper"))
    assert predictor.predict([Query(HARMONIC)])[0].times.size == 100
    for query in (Query(HARMONIC, q0=0.3), Query(HARMONIC, q0=0.5, p0=0.1)):
        with pytest.raises(InputError, match=r"knows only the start \(0, 0\)"):
            predictor.predict([query])


def test_default_times_and_expression_equal_sensors(predictor: Predictor) -> None:
    by_expression, by_sensors = predictor.predict([Query(HARMONIC), Query(SENSORS)])
    np.testing.assert_array_equal(by_expression.times, np.linspace(0, 2, 100))
    np.testing.assert_allclose(by_expression.q, by_sensors.q, atol=1e-6)


def test_answers_are_the_networks_own(predictor: Predictor, folder: Path) -> None:
    times = np.linspace(0, 2, 5)
    answer = predictor.predict([Query(HARMONIC, 0.5, 1.0, times)], "none")[0]
    arrays = (SENSORS[None], times[None], np.array([[0.5, 1.0]]))
    with torch.inference_mode():
        output = load_model(folder)(*(torch.tensor(array, dtype=torch.float32) for array in arrays))
    np.testing.assert_allclose(answer.q, output.q[0], atol=1e-6)
    np.testing.assert_allclose(answer.p, output.p[0], atol=1e-6)
    assert (answer.energy_drift, answer.solver_error, answer.source) == (None, None, "model")


def test_energy_drift_by_hand(predictor: Predictor) -> None:
    answer = predictor.predict([Query(HARMONIC, 0.5, 1.0)], "energy")[0]
    # A cubic spline through samples of the harmonic V is the harmonic V, so H0 = 1/2 and 2 - min V = 2.
    hamiltonian = answer.p**2 / 2 + 8 * (answer.q - 0.5) ** 2
    assert answer.energy_drift == pytest.approx(np.max(np.abs(hamiltonian - 0.5)) / 2, rel=1e-9)
    assert answer.solver_error is None
    assert answer.source == "model"


def exact_harmonic(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 - 0.5 * np.cos(4 * times), 2 * np.sin(4 * times)


def test_the_solver_overrules_a_bad_model_with_the_exact_motion(predictor: Predictor) -> None:
    times = np.random.default_rng(0).permutation(np.linspace(0, 2, 57))  # any order
    plain = predictor.predict([Query(HARMONIC, times=times)], "none")[0]
    answer = predictor.predict([Query(HARMONIC, times=times)], "solver")[0]
    true_q, true_p = exact_harmonic(times)
    assert answer.source == "solver"
    np.testing.assert_allclose(answer.q, true_q, atol=1e-10)
    np.testing.assert_allclose(answer.p, true_p, atol=1e-10)
    expected = max(np.max(np.abs(plain.q - true_q)), np.max(np.abs(plain.p - true_p)))
    assert answer.solver_error == pytest.approx(expected, rel=1e-6)
    assert answer.energy_drift is not None
    assert answer.energy_drift < 1e-11


def test_a_model_within_the_threshold_keeps_its_answer(folder: Path) -> None:
    answer = Predictor(folder, solver_threshold=1e6).predict([Query(HARMONIC)], "solver")[0]
    assert answer.source == "model"
    assert answer.solver_error is not None
    assert answer.solver_error > 0.05


@pytest.mark.parametrize("verify", ["none", "energy", "solver"])
def test_an_answer_that_is_not_finite_is_replaced(folder: Path, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(folder)
    with torch.no_grad():
        predictor._model.head.bias.fill_(float("nan"))
    answer = predictor.predict([Query(HARMONIC)], verify)[0]  # type: ignore[arg-type]
    np.testing.assert_allclose(answer.q, exact_harmonic(answer.times)[0], atol=1e-10)
    assert answer.source == "solver"
    assert answer.solver_error is None
    assert (answer.energy_drift is None) == (verify == "none")
    # And where the solver fails too, that is said.
    monkeypatch.setattr("neural_hamilton.serve.predictor.solve", lambda *_, **__: (np.full(100, np.nan),) * 3)
    with pytest.raises(InputError, match=r"trajectories\[0\] has no finite answer"):
        predictor.predict([Query(HARMONIC)], verify)  # type: ignore[arg-type]


def test_batches_change_no_answer_and_times_may_be_ragged(predictor: Predictor) -> None:
    rng = np.random.default_rng(1)
    queries = []
    for index in range(300):  # more rows than one forward pass takes
        q0 = rng.uniform(0.2, 0.8)
        times = None if index % 3 == 0 else rng.uniform(0, 2, 1 + index % 5)
        queries.append(Query(HARMONIC if index % 2 else "625/8*(q-0.2)**2*(q-0.8)**2", q0, rng.uniform(-1, 1), times))
    answers = predictor.predict(queries)
    for index in (0, 1, 2, 150, 299):
        alone = predictor.predict([queries[index]])[0]
        expected = 100 if queries[index].times is None else queries[index].times.size  # type: ignore[union-attr]
        assert answers[index].times.size == answers[index].q.size == answers[index].p.size == expected
        np.testing.assert_allclose(answers[index].q, alone.q, atol=1e-5)
        np.testing.assert_allclose(answers[index].p, alone.p, atol=1e-5)
        assert answers[index].energy_drift == pytest.approx(alone.energy_drift, rel=1e-4)


def test_a_missing_or_damaged_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"no readable model\.json"):
        Predictor(tmp_path / "absent")
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="checksum"):
        Predictor(tmp_path)


class TestCalibratedDrift:
    """Where calibration found a threshold of the energy drift, answers beyond it are the solver's."""

    @pytest.fixture(scope="class")
    def calibrated(self, tmp_path_factory):
        folder = save_tiny(tmp_path_factory.mktemp("calibrated"), "phase-space")

        def with_threshold(threshold):
            record_calibration(folder, {"scores": {"energy_drift": {"threshold": threshold}}})
            return Predictor(folder)

        return with_threshold

    def test_beyond_it_the_solver_answers(self, calibrated, predictor):
        query = [Query(HARMONIC, 0.3, 0.0)]
        drift = predictor.predict(query)[0].energy_drift
        within, beyond = calibrated(1.01 * drift), calibrated(0.99 * drift)
        assert within.predict(query)[0].source == "model"
        answer = beyond.predict(query)[0]
        assert answer.source == "solver" and answer.energy_drift < 1e-6 and answer.solver_error is None
        np.testing.assert_allclose(answer.q, 0.5 - 0.2 * np.cos(4 * answer.times), atol=1e-5)
        assert beyond.summary["drift_threshold"] == 0.99 * drift

    def test_it_is_applied_only_where_energy_was_asked_for(self, calibrated):
        strict = calibrated(1e-12)
        assert strict.predict([Query(HARMONIC, 0.3, 0.0)], verify="none")[0].source == "model"
        assert strict.predict([Query(HARMONIC, 0.3, 0.0)], verify="energy")[0].source == "solver"

    @pytest.mark.parametrize(
        "damaged", [None, {}, {"scores": None}, *({"scores": {"energy_drift": {"threshold": x}}} for x in ("high", [1]))]
    )
    def test_a_damaged_one_is_refused(self, tmp_path, damaged):
        record_calibration(save_tiny(tmp_path, "phase-space"), damaged)
        with pytest.raises(InputError, match=r"the calibration in the model\.json of .* is damaged"):
            Predictor(tmp_path)

    def test_without_one_the_model_answers(self, calibrated):
        assert calibrated(None).predict([Query(HARMONIC, 0.3, 0.0)])[0].source == "model"
