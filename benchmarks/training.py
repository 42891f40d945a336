"""The training loop: what it costs beside the arithmetic, what Ray Train adds, and whether its plan holds.

`measure` is quick. `measure_long` trains for five minutes twice: `python -m benchmarks training-long`.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neural_hamilton.architectures import build_operator
from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.platform.data.datasets import list_files, read_rows
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.planning import plan_train
from neural_hamilton.platform.training.batches import Batch, Endless
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.process_group import Worker
from neural_hamilton.platform.training.run_folder import History, prepare_run
from neural_hamilton.platform.training.trained_for import task_of

from .timing import compare, time_in_turns

_ROWS = {"train": 8000, "val": 100, "test": 0}  # the smallest dataset of the paper
_ROUNDS = {"deeponet": 7, "mambonet": 2}
_ENDLESS_ROWS, _ENDLESS_ROUNDS = 20_000, 5
_PLANNED = {"deeponet": 60, "fno": 4, "mambonet": 3, "traonet": 3, "varonet": 6}  # epochs of 2,000 rows


def measure() -> dict[str, Any]:
    """An epoch of the loop against the bare arithmetic of its steps, in turns; and plans against what then happened."""
    with tempfile.TemporaryDirectory() as scratch:
        dataset = _make_dataset(Path(scratch))
        comparisons = [comparison for name in _ROUNDS for comparison in _overhead(name, dataset, Path(scratch))]
        comparisons.append(_endless_epochs())
        plans = [_plan_and_do(name, epochs, dataset, Path(scratch)) for name, epochs in _PLANNED.items()]
    return {
        "what": f"Training, default presets, {_ROWS['train']} rows, batch 100, in one process",
        "comparisons": comparisons,
        "plans": plans,
    }


def measure_long() -> dict[str, Any]:
    """The command `train` under Ray Train with one worker against `--local`, one after the other, five minutes each."""
    with tempfile.TemporaryDirectory() as scratch:
        dataset = _make_dataset(Path(scratch))
        config = ["--arch", "mambonet", "--set", f"training.epochs={_epochs_of_five_minutes(dataset)}"]
        seconds = {}
        for name, flags in (("train under Ray Train", []), ("train --local", ["--local"])):
            started = time.perf_counter()
            run = Path(scratch) / name.replace(" ", "-")
            command = [sys.executable, "-m", "neural_hamilton.platform", "train", str(dataset), "--out", str(run), *config, *flags]
            subprocess.run(command, check=True, capture_output=True)
            seconds[name] = [time.perf_counter() - started]
            losses = [line["validation_loss"] for line in History(run).read()]
            seconds_inside = sum(line["seconds"] for line in History(run).read())
            print(f"{name}: {seconds[name][0]:.1f} s, of them {seconds_inside:.1f} in epochs; loss {losses[-1]:.6e}", file=sys.stderr)
    return {
        "what": "MambONet, default preset, 8000 rows, one worker on all CPUs, whole commands",
        "comparisons": [compare(seconds, "train under Ray Train", "train --local")],
    }


def _make_dataset(scratch: Path) -> Path:
    generate(scratch / "dataset", load_config(None, {f"data.{split}": rows for split, rows in _ROWS.items()}).data, local=True)
    return scratch / "dataset"


def _config(name: str, epochs: int) -> Config:
    return load_config(None, {"architecture.name": name, "training.epochs": epochs})


def _overhead(name: str, dataset: Path, scratch: Path) -> list[dict[str, Any]]:
    """One epoch of the loop, with all it does beside (shuffling, records, TensorBoard, checkpoints); and its arithmetic alone."""
    run = scratch / f"overhead-{name}"
    config = prepare_run(run, dataset, _config(name, 1000), resume=False)
    contestants = {
        f"epoch of the loop, {name}": _epoch_by_epoch(config, dataset, run),
        f"forward, backward and optimizer alone, {name}": _bare_epoch(config, dataset),
    }
    ours, theirs = contestants
    return [compare(time_in_turns(contestants, _ROUNDS[name]), ours, theirs)]


def _endless_epochs() -> dict[str, Any]:
    """Rows drawn while they are used: four epochs of which each is drawn ahead, against four that each begin with nothing drawn."""

    def source(epochs: int) -> Endless:
        config = load_config(None, {"training.epochs": epochs})
        return Endless(config.data, _ENDLESS_ROWS, config.training, torch.device("cpu"), Worker(0, 1))

    def ahead() -> None:
        following = source(4)
        for epoch in range(4):
            deque(following.epoch(epoch), maxlen=0)

    def from_nothing() -> None:
        for _ in range(4):
            deque(source(1).epoch(0), maxlen=0)

    contestants = {"epochs of endless rows, drawn ahead": ahead, "epochs of endless rows, each from nothing": from_nothing}
    ours, theirs = contestants
    return compare(time_in_turns(contestants, _ENDLESS_ROUNDS), ours, theirs)


def _epoch_by_epoch(config: Config, dataset: Path, run: Path) -> Callable[[], None]:
    """`train`, held between its epochs: each call lets it do one more."""
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    def report(_: dict[str, float]) -> None:
        done.release()
        go.acquire()

    threading.Thread(target=lambda: train(config, dataset, run, report), daemon=True).start()
    done.acquire()

    def one_more() -> None:
        go.release()
        done.acquire()

    return one_more


def _bare_epoch(config: Config, dataset: Path) -> Callable[[], None]:
    rows = Batch.from_rows(read_rows(list_files(dataset, "train")))
    validation = Batch.from_rows(read_rows(list_files(dataset, "val")))
    batches = [rows.take(part) for part in torch.arange(len(rows)).split(config.training.batch_size)]
    model = build_operator(config.architecture, task_of(config.data))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def epoch() -> None:
        model.train()
        for batch in batches:
            output = model(batch.potential, batch.times, batch.initial)
            loss = 0.5 * ((output.q - batch.q).square().mean() + (output.p - batch.p).square().mean()) + output.auxiliary_loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        with torch.no_grad():
            for part in torch.arange(len(validation)).split(config.training.batch_size):
                batch = validation.take(part)
                model(batch.potential, batch.times, batch.initial)

    return epoch


def _plan_and_do(name: str, epochs: int, dataset: Path, scratch: Path) -> dict[str, Any]:
    """In processes of their own, as a user would: `plan train`, then `train`."""
    options = [str(dataset), "--arch", name, "--local", "--json", "--set", f"training.epochs={epochs}", "--set", "training.train_rows=2000"]
    plan = json.loads(_output("plan", "train", *options))
    run = scratch / f"planned-{name}"
    started = time.perf_counter()
    _output("train", *options, "--out", str(run))
    seconds = time.perf_counter() - started
    memory = max(line["memory_bytes"] for line in History(run).read())
    return {
        "architecture": name,
        "epochs": epochs,
        "seconds_planned": plan["seconds"],
        "seconds_taken": seconds,
        "seconds_planned_over_taken": plan["seconds"] / seconds,
        "memory_planned_over_taken": plan["memory_bytes"] / memory,
    }


def _output(*arguments: str) -> str:
    command = [sys.executable, "-m", "neural_hamilton.platform", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def _epochs_of_five_minutes(dataset: Path) -> int:
    plan = plan_train(_config("mambonet", 1), dataset)
    return round(300 / (plan["steps"] * plan["seconds_per_step"]))
