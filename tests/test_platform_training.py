"""Training: exact resumption, refusals, and real Ray Train workers, one of them really killed."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from neural_hamilton.architectures import build_operator, load_model, parse_architecture
from neural_hamilton.architectures.selective_scan import use_backend
from neural_hamilton.physics import InputError
from neural_hamilton.platform import distributed
from neural_hamilton.platform.checkpoints import load_checkpoint, save_checkpoint
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.datasets import read_split
from neural_hamilton.platform.distributed import train_with_ray
from neural_hamilton.platform.progress import Progress
from neural_hamilton.platform.schedules import learning_rate_at
from neural_hamilton.platform.training import Batches, batch_rows, prepare_run, squared_error, train

TINY = {"architecture.name": "deeponet", "architecture.width": 16, "architecture.num_layers": 1, "architecture.num_channels": 8}


def config_with(**fields):
    return load_config(
        None, {**TINY, "training.epochs": 3, "training.batch_size": 10} | {k.replace("__", "."): v for k, v in fields.items()}
    )


def train_in(run, dataset, config, resume=False, **options):
    return train(prepare_run(run, dataset, config, resume), dataset, run, **options)


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_run_folder_is_complete(tiny_dataset, tmp_path):
    result = train_in(tmp_path / "run", tiny_dataset, config_with(training__epochs=30, training__learning_rate=5e-3))
    lines = history(tmp_path / "run")
    assert len(lines) == 30 and lines[-1]["train_loss"] < 0.5 * lines[0]["train_loss"]
    assert result["validation_loss"] == min(line["validation_loss"] for line in lines)
    assert {"config.yaml", "history.jsonl", "result.json", "checkpoint.safetensors", "model"} == set(os.listdir(tmp_path / "run"))
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert card["provenance"]["dataset_hash"] == json.loads((tiny_dataset / "manifest.json").read_text())["dataset_hash"]
    assert card["provenance"]["metrics"]["validation_loss"] == result["validation_loss"]
    assert load_model(tmp_path / "run" / "model").config.num_sensors == 20
    for record in (*lines, result):
        assert record["device"] in ("cpu", "cuda") and record["scan_backend"] is None  # of a DeepONet


def test_the_log_names_the_scan_backend(tiny_dataset, tmp_path):
    sizes = {"d_model": 8, "num_heads": 2, "num_mamba_layers": 1, "num_decoder_layers": 1, "d_feedforward": 8}
    fields = {"training.epochs": 1, "architecture.name": "mambonet"} | {f"architecture.{key}": value for key, value in sizes.items()}
    config = load_config(None, fields)
    with use_backend("reference"):
        result = train_in(tmp_path / "run", tiny_dataset, config)
    assert result["scan_backend"] == history(tmp_path / "run")[0]["scan_backend"] == "reference"


def test_shared_times_are_held_once_and_change_no_answer(tiny_dataset):
    split = read_split(tiny_dataset, "train")
    shared = Batches.from_split(split, torch.device("cpu"))
    assert shared.times.shape == (1, split.times.shape[1])
    torch.manual_seed(0)
    model = build_operator(parse_architecture({"name": "deeponet", "num_sensors": 20, "width": 16}))
    rows = torch.arange(4)
    apart = dataclasses.replace(shared, times=torch.tensor(split.times, dtype=torch.float32))
    losses = [squared_error(model, batches.take(rows))[0] for batches in (shared, apart)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_interrupted_and_resumed_ends_with_the_same_bits(tiny_dataset, tmp_path):
    config = config_with(training__epochs=5)
    train_in(tmp_path / "whole", tiny_dataset, config)

    class Interrupted(Exception):
        pass

    def interrupt(record):
        if record["epoch"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_in(tmp_path / "cut", tiny_dataset, config, report=interrupt)
    train_in(tmp_path / "cut", tiny_dataset, config, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    final = [load_checkpoint(tmp_path / name / "checkpoint.safetensors", torch.device("cpu"))["model"] for name in ("whole", "cut")]
    assert all(torch.equal(final[0][key], final[1][key]) for key in final[0])


def test_finished_run_resumes_to_the_same_result(tiny_dataset, tmp_path):
    first = train_in(tmp_path / "run", tiny_dataset, config_with())
    before = weights(tmp_path / "run")
    assert train_in(tmp_path / "run", tiny_dataset, config_with(), resume=True) == first
    assert weights(tmp_path / "run") == before


def test_only_the_first_rows_are_used_when_asked(tiny_dataset, tmp_path):
    assert train_in(tmp_path / "run", tiny_dataset, config_with(training__train_rows=30))["train_rows"] == 30


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"training__train_rows": 65}, "has 64 training rows"),
        ({"architecture__name": "mambonet", "architecture__num_heads": 7}, "multiple of num_heads"),
    ],
)
def test_impossible_configuration_is_refused_before_anything_is_written(tiny_dataset, tmp_path, fields, words):
    base = {} if "architecture__name" in fields else TINY
    config = load_config(None, base | {k.replace("__", "."): v for k, v in fields.items()})
    with pytest.raises(InputError, match=words):
        prepare_run(tmp_path / "run", tiny_dataset, config, False)
    assert not (tmp_path / "run").exists()


def test_run_folder_in_use_is_refused(tiny_dataset, tmp_path):
    prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    with pytest.raises(InputError, match="--resume"):
        prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    with pytest.raises(InputError, match=r"training\.epochs was 3, is 4"):
        prepare_run(tmp_path / "run", tiny_dataset, config_with(training__epochs=4), True)


def test_folder_with_other_things_is_left_alone(tiny_dataset, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds no run"):
        prepare_run(tmp_path, tiny_dataset, config_with(), True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tiny_dataset, tmp_path):
    config = config_with(training__learning_rate=1e30, training__final_learning_rate=1e29)
    with pytest.raises(InputError, match=r"not finite in epoch \d"):
        train_in(tmp_path / "run", tiny_dataset, config)
    for path in (tmp_path / "run").glob("checkpoint*"):
        assert np.isfinite(load_checkpoint(path, torch.device("cpu"))["best"])


def test_damaged_checkpoint_is_named(tiny_dataset, tmp_path):
    train_in(tmp_path / "run", tiny_dataset, config_with())
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors"):
        train_in(tmp_path / "run", tiny_dataset, config_with(), resume=True)


def test_checkpoint_keeps_every_kind_of_state(tmp_path):
    model = build_operator(parse_architecture({"name": "deeponet", "width": 4}))
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.1, "history": [{"a": 1.5, "b": None}]}
    save_checkpoint(tmp_path / "c.safetensors", state)
    loaded = load_checkpoint(tmp_path / "c.safetensors", torch.device("cpu"))
    assert loaded["history"] == state["history"] and loaded["epoch"] == 3 and loaded["best"] == 0.1
    assert list(loaded["optimizer"]["state"]) == list(state["optimizer"]["state"])
    for key, entry in state["optimizer"]["state"].items():
        assert all(torch.equal(value, loaded["optimizer"]["state"][key][name]) for name, value in entry.items())


def test_batches_are_a_permutation_that_depends_on_seed_and_epoch_alone():
    batches = [torch.cat(list(batch_rows(103, 10, seed, epoch))) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert sorted(batches[0].tolist()) == list(range(103))
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2]) and not torch.equal(batches[0], batches[3])


def test_schedules_go_from_first_to_last_rate():
    for schedule in ("cosine", "exp-hyperbolic"):
        settings = load_config(
            None, {"training.schedule": schedule, "training.epochs": 250, "training.final_learning_rate": 3.05e-7}
        ).training
        rates = [learning_rate_at(settings, epoch) for epoch in range(250)]
        assert rates[0] == pytest.approx(1e-3) and all(np.diff(rates) < 0)
    settings = load_config(
        None,
        {
            "training.schedule": "exp-hyperbolic",
            "training.epochs": 250,
            "training.learning_rate": 1.46e-3,
            "training.final_learning_rate": 3.05e-7,
        },
    )
    # By hand from the published formula at x = 125, U = 300, N = 250.
    exponent = ((125 / 300) * (2 - 375 / 300)) ** 0.5 - ((250 / 300) * (2 - 250 / 300)) ** 0.5
    assert learning_rate_at(settings.training, 125) == pytest.approx(1.46e-3 * (1.46e-3 / 3.05e-7) ** exponent)


def test_one_worker_and_two_agree_with_this_process(ray_session, tiny_dataset, tmp_path):
    losses = {}
    for workers in (0, 2):
        run = tmp_path / str(workers)
        config = prepare_run(run, tiny_dataset, config_with(training__batch_size=7), False)  # 64 rows in sevens: the last batch has one row
        if workers:
            train_with_ray(config, tiny_dataset, run, workers, Progress("train", 3))
        else:
            train(config, tiny_dataset, run)
        losses[workers] = [line["validation_loss"] for line in history(run)]
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


def test_refusal_inside_ray_workers_is_one_sentence(ray_session, tiny_dataset, tmp_path):
    config = prepare_run(
        tmp_path / "run", tiny_dataset, config_with(training__learning_rate=1e30, training__final_learning_rate=1e29), False
    )
    with pytest.raises(InputError, match="not finite"):
        train_with_ray(config, tiny_dataset, tmp_path / "run", 1, Progress("train", 3))


def test_full_disk_under_ray_is_one_sentence_and_the_run_goes_on_later(ray_session, tiny_dataset, tmp_path, monkeypatch):
    """A real file system with room for a run's first files and no more."""
    monkeypatch.setattr(distributed, "_RESTARTS", 0)  # each would meet the same disk
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=32k tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        config = prepare_run(mount / "run", tiny_dataset, config_with(architecture__width=64), False)
        with pytest.raises(InputError, match="No space left on device"):
            train_with_ray(config, tiny_dataset, mount / "run", 1, Progress("train", 3))
        os.system(f"mount -o remount,size=8m {mount}")
        assert train_with_ray(config, tiny_dataset, mount / "run", 1, Progress("train", 3))["epochs"] == 3
    finally:
        os.system(f"umount -l {mount}")  # lazily: a Ray worker may still hold a file


def test_more_workers_than_the_cluster_has_is_refused(ray_session, tiny_dataset, tmp_path):
    config = prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    with pytest.raises(InputError, match="--workers is 64"):
        train_with_ray(config, tiny_dataset, tmp_path / "run", 64, Progress("train", 3))


def test_killed_ray_worker_is_replaced_and_the_run_ends_with_the_same_weights(ray_session, tiny_dataset, tmp_path):
    config = config_with(training__epochs=30)
    train_in(tmp_path / "quiet", tiny_dataset, config)
    run = tmp_path / "killed"
    prepared = prepare_run(run, tiny_dataset, config, False)
    killed = []

    def kill_one_worker():
        while not (run / "history.jsonl").exists() or len(history(run)) < 3:
            time.sleep(0.02)
        workers = train_worker_pids(ray_session)
        os.kill(workers[0], signal.SIGKILL)
        killed.append(workers[0])

    killer = threading.Thread(target=kill_one_worker)
    killer.start()
    result = train_with_ray(prepared, tiny_dataset, run, 1, Progress("train", 30))
    killer.join()
    assert killed and result["epochs"] == 30
    assert weights(run) == weights(tmp_path / "quiet")


def train_worker_pids(ray):
    """Processes that run the training loop, children of this very Ray session's raylet."""
    session = ray._private.worker._global_node.get_session_dir_path()

    def command(pid):
        return (Path("/proc") / pid / "cmdline").read_text(errors="replace")

    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # processes come and go
            parent = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[1]
            if "RayTrainWorker" in command(pid) and session in command(parent):
                found.append(int(pid))
    return found


def test_killed_driver_loses_at_most_the_current_epoch(tiny_dataset, tmp_path):
    config = config_with(training__epochs=150)
    train_in(tmp_path / "quiet", tiny_dataset, config)
    config.save(tmp_path / "config.yaml")
    run = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "neural_hamilton.platform",
        "train",
        tiny_dataset,
        "--local",
        "--resume",
        "--config",
        tmp_path / "config.yaml",
        "--out",
        run,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "history.jsonl").exists() or len(history(run)) < 5:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = len(history(run))
    assert done < 150
    assert subprocess.run(command, capture_output=True, check=True)
    assert len(history(run)) == 150 and weights(run) == weights(tmp_path / "quiet")
