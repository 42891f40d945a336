"""Sweeps: real Ray Tune trials, failures as lines of the table, and resumption from what is on disk."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from neural_hamilton.architectures import load_model
from neural_hamilton.physics import InputError
from neural_hamilton.platform.cli import main
from neural_hamilton.platform.config import Config, DataConfig, load_config
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.progress import Progress
from neural_hamilton.tune import sweep as sweep_module
from neural_hamilton.tune.folders import claimed
from neural_hamilton.tune.sweep import sweep
from neural_hamilton.tune.trials import attempt, read_failure, read_history, run_trials, trial_resources

TINY = {
    "architecture.name": "deeponet",
    "architecture.width": 8,
    "architecture.num_layers": 1,
    "architecture.num_channels": 4,
    "training.epochs": 3,
    "training.batch_size": 16,
    "sweep.epochs": 2,
}
BROKEN_RATE = 1e30
SPACE = {"training.learning_rate": {"choices": [0.003, BROKEN_RATE]}, "architecture.width": {"low": 4, "high": 8}}


def tiny(**overrides: Any) -> Config:
    return load_config(overrides=TINY | {"sweep.space": SPACE} | {key.replace("__", "."): value for key, value in overrides.items()})


@pytest.fixture(scope="module")
def dataset(ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "dataset"
    generate(folder, DataConfig(train=32, val=8, sensors=20, times=20))
    return folder


@pytest.fixture(scope="module")
def swept(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("tune") / "sweep"
    return out, sweep(tiny(), dataset, out, 4)


def study_of(out: Path) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{out / 'optuna.db'}")


def test_the_storage_is_the_record(swept: tuple[Path, dict[str, Any]]) -> None:
    states = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed"}
    rows = {row["trial"]: row for row in json.loads((swept[0] / "leaderboard.json").read_text())}
    for trial in study_of(swept[0]).trials:
        row, run = rows[f"{trial.number:05d}"], swept[0] / "trials" / f"{trial.number:05d}"
        assert row["state"] == states[trial.state.name]
        assert row["validation_loss"] == trial.value
        best_so_far = np.minimum.accumulate([line["validation_loss"] for line in read_history(run)])
        assert list(trial.intermediate_values.values()) == best_so_far.tolist()
        assert trial.value is None or trial.value < 10


def test_a_failing_trial_is_a_line_and_not_the_end(swept: tuple[Path, dict[str, Any]]) -> None:
    out, result = swept
    rows = json.loads((out / "leaderboard.json").read_text())
    assert len(rows) == result["trials"] == result["new_trials"] == 4
    failed = [row for row in rows if row["state"] == "failed"]
    assert failed
    assert all(row["parameters"]["training.learning_rate"] == BROKEN_RATE and "not finite" in row["reason"] for row in failed)
    assert rows[-len(failed) :] == failed
    losses = [row["validation_loss"] for row in rows[: -len(failed)]]
    assert losses == sorted(losses)
    assert result["states"]["failed"] == len(failed)


def test_the_leaderboard_is_a_table_too(swept: tuple[Path, dict[str, Any]]) -> None:
    out, result = swept
    rows = list(csv.DictReader((out / "leaderboard.csv").open()))
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4]
    assert float(rows[0]["validation_loss"]) == result["best"]["validation_loss"]
    assert rows[0].keys() >= {"trial", "state", "epochs", "seconds", "training.learning_rate", "architecture.width", "reason"}
    assert rows[-1]["validation_loss"] == ""


def test_the_best_configuration_is_ready_to_train(swept: tuple[Path, dict[str, Any]]) -> None:
    out, result = swept
    config = load_config(out / "best.yaml")
    assert config.training.learning_rate == 0.003
    assert config.dump()["architecture"]["width"] == result["best"]["parameters"]["architecture.width"]
    assert config.training.epochs == 3  # a trial had sweep.epochs = 2
    assert load_model(result["best_model"]).config == config.architecture


def test_a_second_call_does_nothing(swept: tuple[Path, dict[str, Any]], dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, result = swept
    monkeypatch.setattr(sweep_module, "run_trials", lambda *_, **__: pytest.fail("trials ran"))
    before = {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("*")}
    again = sweep(tiny(), dataset, out, 4)
    assert again == result | {"new_trials": 0}
    assert {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("*")} == before


def test_the_command_prints_one_json_line(
    swept: tuple[Path, dict[str, Any]], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = swept
    tiny().save(tmp_path / "tiny.yaml", ("architecture", "training", "sweep"))
    arguments = ["sweep", str(dataset), "--trials", "4", "--out", str(out), "--config", str(tmp_path / "tiny.yaml")]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["best"] == result["best"]
    assert main(arguments) == 0
    assert "best configuration" in capsys.readouterr().out
    assert main([*arguments, "--set", "training.weight_decay=0.5"]) == 2
    assert "training.weight_decay 0.0001 (asked for 0.5)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sweep__seed": 7}, "sweep.seed 0 (asked for 7)"),
        ({"architecture__num_channels": 5}, "architecture.num_channels 4 (asked for 5)"),
        ({"sweep__space": {"architecture.width": {"low": 4, "high": 9}}}, "space.architecture.width.high 8 (asked for 9)"),
    ],
)
def test_another_sweep_is_refused(swept: tuple[Path, dict[str, Any]], dataset: Path, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match="already holds a sweep") as refusal:
        sweep(tiny(**overrides), dataset, swept[0], 4)
    assert words in str(refusal.value)


def test_a_used_folder_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"thesis\.tex"):
        sweep(tiny(), dataset, tmp_path, 1)
    with pytest.raises(InputError, match="is a file"):
        sweep(tiny(), dataset, tmp_path / "thesis.tex", 1)
    with (
        claimed(tmp_path / "busy", {"kind": "sweep"}),
        pytest.raises(InputError, match="in use"),
        claimed(tmp_path / "busy", {"kind": "sweep"}),
    ):
        pass


def test_bad_requests_are_refused_before_anything_is_written(dataset: Path, tmp_path: Path) -> None:
    for config, folder, trials, words in (
        (tiny(), dataset, 0, "--trials is 0"),
        (tiny(), tmp_path / "none", 1, "does not exist"),
        (tiny(training__train_rows=33), dataset, 1, "has 32 training rows"),
    ):
        with pytest.raises(InputError, match=words):
            sweep(config, folder, tmp_path / "out", trials)
    assert not (tmp_path / "out").exists()


def test_a_trial_keeps_the_reason_of_its_failure(tmp_path: Path) -> None:
    assert attempt(tmp_path / "run", lambda: 1 / 0) == "ZeroDivisionError: division by zero"
    assert read_failure(tmp_path / "run") == "ZeroDivisionError: division by zero"
    assert attempt(tmp_path / "run", lambda: None) is None
    assert read_failure(tmp_path / "run") is None


def test_gpus_are_shared_equally() -> None:
    assert trial_resources({"CPU": 4.0}, 2) == {"cpu": 1}
    assert trial_resources({"CPU": 4.0, "GPU": 1.0}, 4) == {"cpu": 1, "gpu": 0.25}
    assert trial_resources({"GPU": 2.0}, 3) == {"cpu": 1, "gpu": 0.5}
    assert trial_resources({"GPU": 8.0}, 2) == {"cpu": 1, "gpu": 1.0}


def test_a_worker_that_dies_costs_its_own_trial_at_most(ray_session: Any, tmp_path: Path) -> None:
    def work(parameters: dict[str, Any]) -> None:
        run = Path(parameters["run"])
        first_time = not run.exists()
        run.mkdir(exist_ok=True)
        if run.name == "always" or (run.name == "once" and first_time):
            os._exit(1)
        (run / "done").touch()

    runs = {name: tmp_path / name for name in ("always", "once", "never")}
    from ray import tune

    grid = tune.grid_search([str(run) for run in runs.values()])
    progress = Progress("trials", 3)
    run_trials(work, tmp_path / "scratch", progress, 2, param_space={"run": grid})
    assert [name for name, run in runs.items() if (run / "done").exists()] == ["once", "never"]
    assert "its worker died" in (read_failure(runs["always"]) or "")
    assert progress.done == 3
    assert not (tmp_path / "scratch").exists()


def test_a_killed_sweep_is_completed(dataset: Path, tmp_path: Path) -> None:
    epochs, out = 60, tmp_path / "out"
    config = tiny(sweep__epochs=epochs, sweep__grace_fraction=1.0, sweep__space={"architecture.width": {"low": 4, "high": 8}})
    config.save(tmp_path / "tiny.yaml", ("architecture", "training", "sweep"))
    command = [
        sys.executable,
        "-m",
        "neural_hamilton.platform",
        "sweep",
        dataset,
        "--trials",
        "2",
        "--out",
        out,
        "--config",
        tmp_path / "tiny.yaml",
    ]
    driver = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    first = out / "trials" / "00000"
    deadline = time.monotonic() + 90
    while len(read_history(first)) < 3:
        assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    time.sleep(1)  # Ray's processes notice that their driver is gone
    before = read_history(first)
    assert len(before) < epochs
    result = sweep(config, dataset, out, 2)
    assert result["trials"] == 2
    assert result["states"] == {"finished": 2, "stopped early": 0, "failed": 0}
    assert read_history(first)[: len(before)] == before  # continued, not begun again
    assert [list(trial.intermediate_values) for trial in study_of(out).trials] == 2 * [list(range(1, epochs + 1))]
    assert sorted(path.name for path in (out / "trials").iterdir()) == sorted(
        row["trial"] for row in json.loads((out / "leaderboard.json").read_text())
    )


def test_parameters_that_cannot_be_built_cost_no_trial(dataset: Path, tmp_path: Path) -> None:
    """Of two widths and two numbers of heads, one pair does not go together."""
    sizes = {"name": "traonet", "d_model": 12, "num_heads": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "d_feedforward": 8}
    pairs = {"architecture.d_model": {"choices": [12, 8]}, "architecture.num_heads": {"choices": [4, 3]}}
    usual = {key: value for key, value in TINY.items() if not key.startswith("architecture.")}
    settings = usual | {f"architecture.{key}": value for key, value in sizes.items()} | {"sweep.epochs": 1, "sweep.sampler": "random"}
    result = sweep(load_config(overrides=settings | {"sweep.space": pairs}), dataset, tmp_path / "sweep", 5)
    assert result["states"] == {"finished": 5, "stopped early": 0, "failed": 0}
    drawn = [
        (trial.params["architecture.d_model"], trial.params["architecture.num_heads"]) for trial in study_of(tmp_path / "sweep").trials
    ]
    assert (8, 3) in drawn and len([pair for pair in drawn if pair != (8, 3)]) == 5
    hopeless = {"architecture.d_model": {"choices": [8]}, "architecture.num_heads": {"choices": [3]}}
    with pytest.raises(InputError, match=r"cannot be built, the last because .*d_model is 8; it must be a multiple of num_heads, 3"):
        sweep(load_config(overrides=settings | {"sweep.space": hopeless}), dataset, tmp_path / "hopeless", 2)
