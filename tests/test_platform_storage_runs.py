"""Runs, sweeps, studies and reports in a bucket of a real S3-compatible server: what a disk would hold, also after faults."""

import json
import signal
import subprocess
import sys
import threading
import time

import optuna
import pytest
import torch
from training_helpers import config_with

from neural_hamilton.architectures import load_model
from neural_hamilton.physics import InputError
from neural_hamilton.physics.errors import StorageUnavailable
from neural_hamilton.physics.files import write_json
from neural_hamilton.platform import folder_lock, storage
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.evaluation import evaluate
from neural_hamilton.platform.folder_lock import hold_folder
from neural_hamilton.platform.storage import list_files, locate, remove_folder
from neural_hamilton.platform.training import loop
from neural_hamilton.platform.training.checkpoints import load_checkpoint, save_checkpoint
from neural_hamilton.platform.training.run_folder import prepare_run
from neural_hamilton.platform.training.runs import run_training
from neural_hamilton.tune.folders import read_cost, record_cost
from neural_hamilton.tune.scaling.scale import scale
from neural_hamilton.tune.sweeps.sweep import sweep

FAST_EVALUATION = {"evaluation.bootstrap": 10, "evaluation.studies": [], "evaluation.max_rows": 8}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES_S", (0.02, 0.02))
    monkeypatch.setattr(storage, "_PATIENT_PAUSES_S", (0.02, 0.02))
    monkeypatch.setattr(folder_lock, "_SETTLED_S", 0.05)
    monkeypatch.setattr(folder_lock, "_LEASE_S", 1.5)
    monkeypatch.setattr(folder_lock, "_RENEWED_S", 0.2)


@pytest.fixture
def out(store, bucket):
    return locate(store.url(f"{bucket}/out"))


def names_in(folder):
    """The names of all files, whatever hour and machine an event file of TensorBoard is called by."""
    return {"tensorboard" if name.startswith("tensorboard/") else name for name in list_files(folder)}


def weights_in(run):
    return (run / "model" / "model.safetensors").read_bytes()


def history_in(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_a_run_has_the_files_and_the_weights_of_one_on_a_disk(tiny_dataset, tmp_path, out):
    config = config_with(training__trackers=["tensorboard"])
    local = run_training(config, tiny_dataset, tmp_path / "run", 0, resume=False)
    stored = run_training(config, tiny_dataset, out, 0, resume=False)
    assert names_in(out) == names_in(tmp_path / "run") > {"config.yaml", "history.jsonl", "result.json", "tensorboard"}
    assert weights_in(out) == weights_in(tmp_path / "run")
    assert stored["validation_loss"] == local["validation_loss"] and stored["model"] == str(out / "model")
    assert load_model(locate(stored["model"])).config == load_model(tmp_path / "run" / "model").config


def test_a_run_goes_on_from_its_last_epoch_with_the_same_weights(tiny_dataset, tmp_path, out):
    run_training(config_with(), tiny_dataset, tmp_path / "whole", 0, resume=False)

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    config = config_with()
    with pytest.raises(KeyboardInterrupt):
        loop.train(prepare_run(out, tiny_dataset, config, resume=False), tiny_dataset, out, stop)
    with pytest.raises(InputError, match="already holds a run"):
        run_training(config, tiny_dataset, out, 0, resume=False)
    run_training(config, tiny_dataset, out, 0, resume=True)
    assert weights_in(out) == weights_in(tmp_path / "whole") and len(history_in(out)) == 3


@pytest.mark.slow
def test_an_outage_in_the_middle_is_waited_for_or_told_in_one_sentence(store, tiny_dataset, tmp_path, out):
    run_training(config_with(), tiny_dataset, tmp_path / "whole", 0, resume=False)
    is_history = lambda method, path: method in ("PUT", "POST") and "history" in path  # noqa: E731
    with store.failing("503", is_history, times=5) as met:
        run_training(config_with(), tiny_dataset, out, 0, resume=False)
    assert len(met) == 5 and weights_in(out) == weights_in(tmp_path / "whole")
    remove_folder(out)
    refusal = pytest.raises(StorageUnavailable, match=r"cannot be written, in 3 attempts.*run the same command again")
    with store.failing("503", lambda method, path: method in ("PUT", "POST") and "checkpoints" in path), refusal:
        run_training(config_with(), tiny_dataset, out, 0, resume=False)
    run_training(config_with(), tiny_dataset, out, 0, resume=True)
    assert weights_in(out) == weights_in(tmp_path / "whole")


def test_credentials_that_expire_between_two_epochs_are_no_damage(store, tiny_dataset, tmp_path, out):
    run_training(config_with(training__epochs=2), tiny_dataset, out, 0, resume=False)
    longer = config_with(training__epochs=3)
    refused = pytest.raises(StorageUnavailable, match="refuses the credentials")
    with store.failing("403", lambda method, path: method in ("GET", "HEAD") and "checkpoints/epoch" in path), refused:
        run_training(longer, tiny_dataset, out, 0, resume=True)
    run_training(longer, tiny_dataset, out, 0, resume=True)
    assert len(history_in(out)) == 3


def is_listing(method, path):
    return method == "GET" and "list-type=2" in path


def test_a_listing_that_lags_costs_work_and_nothing_else(store, tiny_dataset, tmp_path, out):
    """Checkpoints that no listing shows yet are not found: the epochs are trained again, to the same weights."""
    run_training(config_with(), tiny_dataset, tmp_path / "whole", 0, resume=False)

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with store.failing("old reply", is_listing) as met:
        with pytest.raises(KeyboardInterrupt):
            loop.train(prepare_run(out, tiny_dataset, config_with(), resume=False), tiny_dataset, out, stop)
        run_training(config_with(), tiny_dataset, out, 0, resume=True)
    assert met and weights_in(out) == weights_in(tmp_path / "whole")
    assert [line["epoch"] for line in history_in(out)] == [1, 2, 3]


@pytest.mark.slow
def test_two_workers_share_a_run_that_lies_in_a_bucket(ray_session, tiny_dataset, tmp_path, out):
    local = run_training(config_with(), tiny_dataset, tmp_path / "run", 2, resume=False)
    stored = run_training(config_with(), tiny_dataset, out, 2, resume=False)
    assert stored["validation_loss"] == local["validation_loss"] and weights_in(out) == weights_in(tmp_path / "run")
    assert {"result.json", "config.yaml", "model/model.json"} <= set(list_files(out))


@pytest.mark.slow
def test_a_sweep_keeps_its_study_in_the_bucket_and_goes_on_from_it(ray_session, tiny_dataset, tmp_path, out):
    config = config_with(training__epochs=2, sweep__space={"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})
    first = sweep(config, tiny_dataset, out, 2)
    assert first["new_trials"] == 2 and first["best_model"].startswith(f"s3://{out.root.partition('//')[2]}")
    result = sweep(config, tiny_dataset, out, 4)
    assert result["new_trials"] == 2 and result["trials"] == 4 and result["states"]["failed"] == 0
    assert len(json.loads((out / "leaderboard.json").read_text())) == 4
    assert {path.name for path in (out / "trials").iterdir()} == {"00000", "00001", "00002", "00003"}
    (tmp_path / "optuna.db").write_bytes((out / "optuna.db").read_bytes())
    trials = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'optuna.db'}").trials
    assert [trial.state.is_finished() for trial in trials] == [True] * 4
    losers = {row["trial"] for row in json.loads((out / "leaderboard.json").read_text())[1:]}
    assert not [name for name in list_files(out) if "checkpoints" in name and name.split("/")[1] in losers]
    assert not [name for name in list_files(out) if name.startswith(".ray")] and load_model(locate(result["best_model"]))
    assert sweep(config, tiny_dataset, out, 4)["new_trials"] == 0


@pytest.mark.slow
def test_a_study_in_a_bucket_has_the_losses_of_one_on_a_disk(ray_session, tiny_dataset, tmp_path, out):
    config = config_with(scaling__steps=6, **{key.replace(".", "__"): value for key, value in FAST_EVALUATION.items()})
    args = (["deeponet"], [16, 32], 2)
    local = scale(config, tiny_dataset, tmp_path / "study", *args, local=True)
    stored = scale(config, tiny_dataset, out, *args)
    losses = [[(cell["size"], cell["seed"], cell["mean"]) for cell in result["cells"]] for result in (local, stored)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert {f"scaling.{kind}" for kind in ("json", "csv", "parquet", "md", "png")} <= set(list_files(out))
    again = scale(config, tiny_dataset, out, *args, local=True)
    assert again["new_cells"] == 0 and again["files"]["json"] == str(out / "scaling.json")


def test_an_outage_is_no_damage(store, out):
    save_checkpoint(out / "state", {"epoch": 1})
    record_cost(out, call={"seconds": 1.0})
    with store.failing("503"):
        for read in (lambda: load_checkpoint(out / "state", torch.device("cpu")), lambda: read_cost(out)):
            with pytest.raises(StorageUnavailable, match="run the same command again$"):
                read()
    assert load_checkpoint(out / "state", torch.device("cpu")) == {"epoch": 1}


@pytest.mark.slow
def test_a_report_is_written_to_a_bucket(tiny_dataset, tmp_path, out):
    run = tmp_path / "run"
    run_training(config_with(), tiny_dataset, run, 0, resume=False)
    settings = load_config(None, FAST_EVALUATION).evaluation
    result = evaluate(run / "model", tiny_dataset, out, settings=settings)
    assert json.loads((out / "evaluation.json").read_text())["metrics"] == json.loads(json.dumps(result["metrics"]))
    assert {"report.html", "trajectories.parquet", "losses.png"} <= set(list_files(out))
    for name in ("model.json", "model.safetensors"):
        (out / "kept" / name).write((run / "model" / name).read_bytes())
    with pytest.raises(InputError, match="holds a model; choose another folder"):
        evaluate(run / "model", tiny_dataset, out / "kept", settings=settings)


def test_a_second_driver_is_refused_while_the_first_works(out):
    with hold_folder(out, "--out"):
        with pytest.raises(InputError, match=r"--out 's3://.*' is in use by process \d+ on .*; wait until that ends, or choose another"):
            hold_folder(out, "--out").__enter__()
        assert (out / ".lock").is_file()
    assert list_files(out) == {}


def test_the_lease_of_a_driver_that_died_runs_out(out, capsys):
    write_json(out / ".lock", {"holder": "process 1 on elsewhere", "token": "x", "renewals": 3})
    with hold_folder(out, "--out"):
        pass
    assert "was left or is in use by process 1 on elsewhere; waiting up to" in capsys.readouterr().err
    assert list_files(out) == {}


STANDS_STILL = """
import sys, time
from neural_hamilton.platform import folder_lock
from neural_hamilton.platform.storage import locate
folder_lock._RENEWED_S = 0.2
with folder_lock.hold_folder(locate(sys.argv[1]), "--out"):
    print("holds", flush=True)
    time.sleep(60)
"""


def test_who_stood_still_too_long_ends_and_leaves_the_folder_to_the_other(out):
    process = subprocess.Popen([sys.executable, "-c", STANDS_STILL, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    while process.poll() is None:  # a renewal on its way may overwrite it once
        write_json(out / ".lock", {"holder": "process 2 on elsewhere", "token": "y", "renewals": 1})
        time.sleep(0.05)
    assert process.returncode == -signal.SIGTERM
    assert "was taken over by process 2 on elsewhere while this command stood still, and so it ends" in process.stderr.read()
    assert list(list_files(out)) == [".lock"]


def test_of_drivers_that_begin_at_once_one_has_the_folder(out, monkeypatch):
    monkeypatch.setattr(folder_lock, "_SETTLED_S", 0.5)
    entered, refused, gate = [], [], threading.Barrier(4)

    def drive():
        gate.wait()
        try:
            with hold_folder(out, "--out"):
                entered.append(1)
                time.sleep(2.5)
        except InputError:
            refused.append(1)

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 1 and len(refused) == 3
