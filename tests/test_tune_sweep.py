"""Sweeps: real Ray Tune trials, failures as lines of the table, and resumption from what is on disk."""

import csv
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest

from neural_hamilton.architectures import load_model
from neural_hamilton.physics import InputError
from neural_hamilton.platform.cli import main
from neural_hamilton.platform.config import Config, DataConfig, load_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.progress import Progress
from neural_hamilton.tune.folders import claimed
from neural_hamilton.tune.sweeps import sweep as sweep_module
from neural_hamilton.tune.sweeps.sweep import sweep
from neural_hamilton.tune.trials import attempt, read_failure, read_history, run_trials, trial_resources

TINY = {
    "architecture.name": "deeponet",
    "architecture.width": 8,
    "architecture.num_layers": 1,
    "architecture.num_channels": 4,
    "training.epochs": 3,
    "training.batch_size": 16,
    "sweep.epochs": 2,
    "sweep.stopper": "none",
}
BROKEN_RATE = 1e30
SPACE = {"training.learning_rate": {"choices": [0.001, BROKEN_RATE, 0.003]}, "architecture.width": {"low": 4, "high": 8}}


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


RICH = {
    "architecture.width": {"low": 4, "high": 8},
    "training.schedule": {"choices": ["constant", "cosine"]},
    "training.final_learning_rate": {"low": 1e-7, "high": 1e-5, "log": True, "when": {"training.schedule": "cosine"}},
    "data.sensors": {"choices": [20, 12]},
}


@pytest.fixture(scope="module")
def pareto(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Of three objectives, two seeds a trial, a space with a condition and two numbers of sensors, in a database of its own."""
    folder = tmp_path_factory.mktemp("tune")
    config = tiny(sweep__space=RICH, sweep__objectives=["median_loss", "num_parameters", "energy_drift"], sweep__seeds=2)
    return folder / "pareto", sweep(config, dataset, folder / "pareto", 6, f"sqlite:///{folder / 'shared.db'}")


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
    columns = pq.read_table(out / "leaderboard.parquet").to_pydict()
    assert columns["validation_loss"][0] == result["best"]["validation_loss"]
    assert columns["validation_loss"][-1] is None and columns["reason"][0] is None
    assert columns["trial"] == [row["trial"] for row in rows]


def test_only_the_best_trial_keeps_its_checkpoints(swept: tuple[Path, dict[str, Any]]) -> None:
    runs = {run.name: (run / "checkpoints").exists() for run in (swept[0] / "trials").iterdir()}
    assert [name for name, kept in runs.items() if kept] == [swept[1]["best"]["trial"]]
    assert len(runs) == 4


class Tags(HTMLParser):
    """What a page loads from elsewhere; the inside of scripts is not HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]


def test_the_page_stands_alone(swept: tuple[Path, dict[str, Any]], pareto: tuple[Path, dict[str, Any]]) -> None:
    for out, titles in (
        (swept[0], ["History of validation_loss", "Importance of the parameters", "Parallel coordinates", "Slices", "so far, by epoch"]),
        (pareto[0], ["Pareto front", "History of num_parameters", "Slices, energy_drift"]),
    ):
        page = (out / "sweep.html").read_text()
        tags = Tags()
        tags.feed(page)
        assert tags.loaded == []
        assert "Plotly.newPlot" in page and "plotly.js v" in page
        for title in ["Leaderboard", *titles]:
            assert f"{title}" in page, title


def test_a_pareto_front_is_that_of_optuna(pareto: tuple[Path, dict[str, Any]]) -> None:
    out, result = pareto
    study = optuna.load_study(study_name=str(out), storage=f"sqlite:///{out.parent / 'shared.db'}")
    assert not (out / "optuna.db").exists()
    rows = json.loads((out / "leaderboard.json").read_text())
    assert {int(row["trial"]) for row in rows if row["front"]} == {trial.number for trial in study.best_trials}
    assert rows[0]["front"] and rows[0] == result["best"]
    finished = [row["state"] == "finished" for row in rows]
    assert finished == sorted(finished, reverse=True)
    for row in rows:
        assert ("training.final_learning_rate" in row["parameters"]) == (row["parameters"]["training.schedule"] == "cosine")
        runs = sorted((out / "trials" / row["trial"]).glob("seed-*"))
        configs = [load_config(run / "config.yaml") for run in runs]
        assert [config.training.seed for config in configs] == [0, 1]
        assert {config.data.sensors for config in configs} == {row["parameters"]["data.sensors"]}
        assert len({len(read_history(run)) for run in runs}) == 1  # stopped together
        models = [load_model(run / "model") for run in runs]
        assert row["num_parameters"] == sum(parameter.numel() for parameter in models[0].parameters())
    assert load_config(out / "best.yaml").data.sensors == result["best"]["parameters"]["data.sensors"]


def test_other_sensors_see_the_same_problems(pareto: tuple[Path, dict[str, Any]], dataset: Path) -> None:
    own, other = (read_split(folder, "val", 8) for folder in (dataset, pareto[0] / "datasets" / "sensors=12"))
    assert other.potential.shape == (8, 12)
    assert np.array_equal(own.q, other.q) and np.array_equal(own.energy, other.energy)


def test_a_sweep_without_its_database_is_refused(pareto: tuple[Path, dict[str, Any]], dataset: Path) -> None:
    config = tiny(sweep__space=RICH, sweep__objectives=["median_loss", "num_parameters", "energy_drift"], sweep__seeds=2)
    with pytest.raises(InputError, match="no study of them; give the --storage"):
        sweep(config, dataset, pareto[0], 6)
    for url, words in (("nonsense", "nonsense"), ("postgresql+nodriver://host/name", "cannot be opened")):
        with pytest.raises(InputError, match=words):
            sweep(config, dataset, pareto[0], 6, url)


@pytest.mark.slow
def test_finals_name_a_winner_only_where_it_is_significant(swept: tuple[Path, dict[str, Any]], dataset: Path, tmp_path: Path) -> None:
    """A useless learning rate loses against a usable one; two equal configurations do not differ."""
    rates = {"training.learning_rate": {"choices": [0.01, 1e-7]}}
    settings = {"sweep__sampler": "grid", "sweep__finalists": 2, "sweep__final_seeds": 4}
    result = sweep(tiny(sweep__space=rates, **settings), dataset, tmp_path / "clear", 2)
    first, second = result["finals"]["finalists"]
    assert result["finals"]["winner"] == first["trial"] == result["best"]["trial"]
    assert first["parameters"] == {"training.learning_rate": 0.01}
    assert 1 < second["interval"][0] < second["ratio"] < second["interval"][1]
    assert load_config(tmp_path / "clear" / "best.yaml").training.learning_rate == 0.01
    runs = sorted((tmp_path / "clear" / "finals").iterdir())
    assert len(runs) == 8 and all(len(read_history(run)) == 3 for run in runs)  # training.epochs, where a trial had two
    assert {load_config(run / "config.yaml").training.seed for run in runs} == {1, 2, 3, 4}
    same = {"training.seed": {"choices": [5, 6]}}  # which the finals replace
    result = sweep(tiny(sweep__space=same, **settings), dataset, tmp_path / "equal", 2)
    assert result["finals"]["winner"] is None
    assert result["finals"]["finalists"][1]["ratio"] == 1.0


def test_a_sweep_starts_from_what_another_found(swept: tuple[Path, dict[str, Any]], dataset: Path, tmp_path: Path) -> None:
    best = swept[1]["best"]
    known = {"sweep__start_from": [str(swept[0] / "best.yaml")]}
    result = sweep(tiny(**known), dataset, tmp_path / "warm", 1)
    assert result["best"]["parameters"] == best["parameters"]
    assert result["best"]["validation_loss"] == best["validation_loss"]
    elsewhere = {"architecture.width": {"low": 40, "high": 80}}
    with pytest.raises(InputError, match=r"sweep.start_from has .*best.yaml', where architecture.width is"):
        sweep(tiny(**known, sweep__space=elsewhere), dataset, tmp_path / "elsewhere", 1)


@pytest.mark.slow
def test_a_trial_of_several_workers(dataset: Path, tmp_path: Path) -> None:
    space = {"architecture.width": {"low": 4, "high": 8}}
    result = sweep(tiny(sweep__space=space, sweep__workers=2), dataset, tmp_path / "sweep", 1)
    assert result["states"] == {"finished": 1, "stopped early": 0, "failed": 0}
    with pytest.raises(InputError, match=r"3 workers of 1 CPU .* room for 0"):
        sweep(tiny(sweep__space=space, sweep__workers=3), dataset, tmp_path / "large", 1)


def test_the_best_configuration_is_ready_to_train(swept: tuple[Path, dict[str, Any]]) -> None:
    out, result = swept
    config = load_config(out / "best.yaml")
    assert config.training.learning_rate == result["best"]["parameters"]["training.learning_rate"]
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
        (tiny(sweep__start_from=["nowhere.yaml"]), dataset, 1, "sweep.start_from 'nowhere.yaml' cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            sweep(config, folder, tmp_path / "out", trials)
    with pytest.raises(InputError, match="the database 'nothing://here' cannot be opened"):
        sweep(tiny(), dataset, tmp_path / "out", 1, "nothing://here")
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
