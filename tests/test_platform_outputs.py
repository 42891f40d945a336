"""Where commands write: never over what they did not make, and nothing at all where they refuse to start."""

import json
import os
import shutil

import optuna
import pytest
import torch
from training_helpers import TINY, config_with, train_in

from neural_hamilton.physics import InputError
from neural_hamilton.platform import ray_runtime
from neural_hamilton.platform.cli import main
from neural_hamilton.platform.config import EvaluationConfig, load_config
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.data.manifest import read_manifest
from neural_hamilton.platform.evaluation import compare, evaluate
from neural_hamilton.platform.training import trackers
from neural_hamilton.platform.training.run_folder import prepare_run
from neural_hamilton.platform.training.runs import run_training
from neural_hamilton.tune.scaling.scale import scale
from neural_hamilton.tune.sweeps.study import open_database
from neural_hamilton.tune.sweeps.sweep import sweep

QUICK = EvaluationConfig(studies=[], bootstrap=10, max_rows=4)
LITTER = (".DS_Store", "Thumbs.db", ".nfs000000000001", "._part")


@pytest.fixture(scope="module")
def run(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "run"
    train_in(folder, tiny_dataset, config_with(training__epochs=1))
    return folder


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", ["dataset", "model", "run", "inside a dataset", "inside a model", "sweep", "own file", "other record"])
@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_results_are_not_written_over_anything_else(tiny_dataset, run, tmp_path, kind, command):
    result = {"evaluate": "evaluation.json", "compare": "comparison.json"}[command]
    page = {"evaluate": "report.html", "compare": "comparison.html"}[command]
    out = tmp_path / "out"
    if kind in ("own file", "other record", "sweep"):
        out.mkdir()
        name = {"own file": page, "other record": result, "sweep": "study.json"}[kind]
        (out / name).write_text('{"mine": 1}', encoding="utf-8")
    else:
        out = shutil.copytree({"d": tiny_dataset, "m": run / "model", "r": run}[kind.split()[-1][0]], out)
    before = contents(out)
    target = out / "train" / "report" if "inside" in kind else out
    measure, subject = {"evaluate": (evaluate, run / "model"), "compare": (compare, [run / "model"] * 2)}[command]
    with pytest.raises(InputError, match=r"--out .*(holds|lies in).*choose a(nother)? folder"):
        measure(subject, tiny_dataset, target, settings=QUICK)
    assert contents(out) == before


def test_an_evaluation_is_written_beside_other_files_and_over_its_own(tiny_dataset, run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for rows in (4, 5):
        result = evaluate(run / "model", tiny_dataset, tmp_path, settings=QUICK.model_copy(update={"max_rows": rows}))
        assert result["dataset"]["rows"] == rows
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_no_run_dataset_sweep_or_study_begins_inside_a_dataset_or_a_model(tiny_dataset, run, tmp_path):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "data")
    model = shutil.copytree(run / "model", tmp_path / "model")
    before = contents(tmp_path)
    config = config_with()
    for folder in (dataset / "train" / "new", model / "new"):
        for begin in (
            lambda folder: prepare_run(folder, tiny_dataset, config, False),
            lambda folder: generate(folder, load_config(None, {"data.train": 2}).data, local=True),
            lambda folder: sweep(config, tiny_dataset, folder, 1),
            lambda folder: scale(config, tiny_dataset, folder, ["deeponet"], [8], 1, local=True),
        ):
            with pytest.raises(InputError, match="lies in"):
                begin(folder)
    assert contents(tmp_path) == before


def test_a_study_json_of_somebody_else_is_left_alone(tiny_dataset, tmp_path):
    (tmp_path / "study.json").write_text('{"subject": "birds"}', encoding="utf-8")
    for begin in (
        lambda: sweep(config_with(), tiny_dataset, tmp_path, 1),
        lambda: scale(config_with(), tiny_dataset, tmp_path, ["deeponet"], [8], 1, local=True),
    ):
        with pytest.raises(InputError, match=r"holds 'study\.json', which is no record"):
            begin()
    assert json.loads((tmp_path / "study.json").read_text(encoding="utf-8")) == {"subject": "birds"}


def test_what_an_operating_system_leaves_in_a_folder_bothers_nobody(tiny_dataset, tmp_path):
    data = load_config(None, {"data.train": 3, "data.sensors": 12, "data.times": 9, "data.shard_rows": 1}).data
    generate(tmp_path / "data", data, local=True)
    whole = read_manifest(tmp_path / "data")
    (tmp_path / "data" / "manifest.json").unlink()  # unfinished
    (tmp_path / "run").mkdir()
    for name in LITTER:
        (tmp_path / "data" / name).touch()
        (tmp_path / "data" / "train" / name).touch()
        (tmp_path / "run" / name).touch()
    assert generate(tmp_path / "data", data, local=True) == whole
    prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)


def no_cluster():
    raise InputError("no cluster here")


@pytest.mark.parametrize("fields", [{"training__precision": "tf32"}, {"training__cuda_graph": True}], ids=["tf32", "cuda_graph"])
@pytest.mark.parametrize("command", ["train", "train on ray", "sweep", "scale", "scale on ray"])
def test_a_start_that_this_device_refuses_leaves_no_folder(tiny_dataset, tmp_path, monkeypatch, ray_session, command, fields):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, out = config_with(**fields), tmp_path / "out"
    begin = {
        "train": lambda: run_training(config, tiny_dataset, out, 0, False),
        "train on ray": lambda: run_training(config, tiny_dataset, out, 1, False),
        "sweep": lambda: sweep(config, tiny_dataset, out, 1),
        "scale": lambda: scale(config, tiny_dataset, out, ["deeponet"], [8], 1, local=True),
        "scale on ray": lambda: scale(config, tiny_dataset, out, ["deeponet"], [8], 1),
    }[command]
    with pytest.raises(InputError, match=r"training\.(precision|cuda_graph) is .*CUDA device"):
        begin()
    assert not out.exists()


@pytest.mark.parametrize("command", ["generate", "train", "sweep", "scale"])
def test_without_a_cluster_no_folder_is_claimed(tiny_dataset, tmp_path, monkeypatch, command):
    monkeypatch.setattr(ray_runtime, "connect", no_cluster)
    config, out = config_with(), tmp_path / "out"
    begin = {
        "generate": lambda: generate(out, load_config(None, {"data.train": 2}).data),
        "train": lambda: run_training(config, tiny_dataset, out, 1, False),
        "sweep": lambda: sweep(config, tiny_dataset, out, 1),
        "scale": lambda: scale(config, tiny_dataset, out, ["deeponet"], [8], 1),
    }[command]
    with pytest.raises(InputError, match="no cluster here"):
        begin()
    assert not out.exists()


def test_what_does_not_fit_the_cluster_is_refused_before_a_folder_is_claimed(tiny_dataset, tmp_path, ray_session):
    crowded = config_with(sweep__max_concurrent=64)
    for begin in (
        lambda: sweep(crowded, tiny_dataset, tmp_path / "out", 64),
        lambda: scale(crowded.override({"scaling.retune": 2}), tiny_dataset, tmp_path / "out", ["deeponet"], [8], 1),
        lambda: run_training(config_with(), tiny_dataset, tmp_path / "out", 64, False),
    ):
        with pytest.raises(InputError, match="64"):
            begin()
    assert not (tmp_path / "out").exists()


def test_a_tracker_that_is_not_installed_is_refused_before_the_folder_is_claimed(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers._MODULES, "mlflow", "no_such_package")
    with pytest.raises(InputError, match="needs the package mlflow-skinny"):
        run_training(config_with(training__trackers=["mlflow"]), tiny_dataset, tmp_path / "out", 0, False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a b", "50%", "a%20b", "what?", "a?x=1", "a#b", "größe", "{x}"])
def test_a_folder_may_be_called_anything(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    tiny = [word for key, value in TINY.items() if key != "architecture.name" for word in ("--set", f"{key}={value}")]
    tiny += ["--arch", "deeponet", "--set", "training.epochs=1", "--local"]
    data, run, study = (f"{name}/{part}" for part in ("data", "run", "study"))
    tracked = ["tensorboard", *([] if {"%", "?"} & set(name) else ["mlflow"])]
    few = ["--train", "8", "--val", "4", "--test", "4", "--sensors", "20", "--times", "9", "--local"]
    assert main(["generate", data, *few]) == 0
    assert main(["train", data, "--out", run, *tiny, "--set", f"training.trackers={json.dumps(tracked)}"]) == 0
    assert main(["scale", data, "--out", study, "--sizes", "4,8", "--seeds", "1", *tiny]) == 0
    assert sorted(os.listdir(tmp_path)) == [name]
    assert {"data", "run", "study", *(["mlflow.db"] if "mlflow" in tracked else [])} <= set(os.listdir(tmp_path / name))


def test_mlflow_refuses_a_folder_that_its_database_cannot_lie_in(tiny_dataset, tmp_path):
    with pytest.raises(InputError, match=r"mlflow.*'.*what\?', with % or \? in its name: set MLFLOW_TRACKING_URI"):
        train_in(tmp_path / "what?" / "run", tiny_dataset, config_with(training__trackers=["mlflow"]))


@pytest.mark.parametrize("name", ["a b", "50%", "a%20b", "what?", "a#b"])
def test_the_database_of_a_sweep_lies_in_its_folder_whatever_its_name(tmp_path, name):
    (tmp_path / name).mkdir()
    optuna.create_study(storage=open_database(tmp_path / name).storage, study_name="sweep")
    assert os.listdir(tmp_path) == [name] and os.listdir(tmp_path / name) == ["optuna.db"]
