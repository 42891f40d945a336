"""Sweeps whose driver, workers and nodes are killed, and that are interrupted: real processes, real signals."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from process_helpers import Nodes, allow_interruption, ray_workers

from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.run_folder import CHECKPOINTS_FOLDER, History

EPOCHS = 20
CONFIG = {
    "architecture.name": "deeponet",
    "architecture.width": 8,
    "architecture.num_layers": 1,
    "architecture.num_channels": 4,
    "training.epochs": EPOCHS,
    "training.batch_size": 8,
    "sweep.space": {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "architecture.width": {"low": 4, "high": 8}},
}
_PATIENCE = 600.0  # seconds in which a sweep must get on


class Sweep:
    """A sweep as a user runs it, in a process of its own."""

    def __init__(self, dataset: Path, folder: Path, num_trials: int, nodes: Nodes | None = None) -> None:
        load_config(None, CONFIG).save(folder / "config.yaml", ("architecture", "training", "sweep"))
        self.out = folder / "sweep"
        arguments = ["sweep", dataset, "--trials", num_trials, "--out", self.out, "--config", folder / "config.yaml", "--json"]
        self._command = [sys.executable, "-m", "neural_hamilton.platform", *map(str, arguments)]
        self._nodes = nodes
        self.driver = self.start()

    def start(self) -> "subprocess.Popen[str]":
        self.driver = subprocess.Popen(
            self._command,
            env=os.environ | (self._nodes.environment if self._nodes else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=allow_interruption,
        )
        return self.driver

    def histories(self) -> dict[str, list[Any]]:
        return {run.name: History(run).read() for run in sorted((self.out / "trials").glob("*"))}

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert self.driver.poll() in (None, 0), self.driver.stderr.read() if self.driver.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_for_epochs(self, count: int) -> None:
        """Until `count` more epochs are trained, or the sweep ends."""
        before = sum(map(len, self.histories().values()))
        self.wait_for(lambda: sum(map(len, self.histories().values())) >= before + count or self.driver.poll() == 0)

    def kill_driver(self) -> None:
        self.driver.kill()
        self.driver.communicate()
        time.sleep(1)  # Ray's processes notice that their driver is gone
        self.start()

    def interrupt_driver(self) -> None:
        self.driver.send_signal(signal.SIGINT)
        _, errors = self.driver.communicate(timeout=_PATIENCE)
        assert self.driver.returncode in (0, 130), errors
        rows = json.loads((self.out / "leaderboard.json").read_text())
        ended = [trial for trial in self.study().trials if trial.state.is_finished()]
        assert sorted(int(row["trial"]) for row in rows) == sorted(trial.number for trial in ended)
        assert (self.out / "sweep.html").exists()
        assert self.driver.returncode == 0 or f"what is done is kept in {self.out}" in errors
        assert json.loads((self.out / "cost.json").read_text())["calls"][-1]["seconds"] > 0
        self.start()

    def kill_worker(self, draw: random.Random) -> None:
        above = os.getpid() if self._nodes else self.driver.pid  # whose descendants the workers are
        workers = ray_workers(above, "ImplicitFunc") if self.driver.poll() is None else []
        if workers:
            os.kill(draw.choice(workers).pid, signal.SIGKILL)

    def kill_node(self) -> None:
        assert self._nodes
        self._nodes.replace()

    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="sweep", storage=f"sqlite:///{self.out / 'optuna.db'}")

    def finish(self) -> dict[str, Any]:
        output, errors = self.driver.communicate(timeout=_PATIENCE)
        assert self.driver.returncode == 0, errors
        return json.loads(output.splitlines()[-1])


def disturb(sweep: Sweep, events: Sequence[str], draw: random.Random) -> int:
    """Do to the sweep what `events` name, each after some epochs; returns how many came before its end."""
    for count, event in enumerate(events):
        sweep.wait_for_epochs(draw.randint(2, 8))
        if sweep.driver.poll() == 0:
            return count
        before = sweep.histories()
        kills = {"driver": sweep.kill_driver, "interrupt": sweep.interrupt_driver, "node": sweep.kill_node}
        kills.get(event, lambda: sweep.kill_worker(draw))()
        sweep.wait_for_epochs(1)
        for name, lines in sweep.histories().items():  # continued from a checkpoint, which is one epoch behind at most
            known = before.get(name, [])[:-1]
            assert lines[: len(known)] == known
    return len(events)


def check_whole(sweep: Sweep, num_trials: int) -> None:
    """Exactly the trials asked for, each with one record of all its epochs."""
    result = sweep.finish()
    assert result["trials"] == num_trials == sum(result["states"].values())
    trials = sweep.study().trials
    assert [trial.number for trial in trials] == list(range(num_trials))
    histories = sweep.histories()
    for trial in trials:
        curve = np.minimum.accumulate([line["validation_loss"] for line in histories[f"{trial.number:05d}"]])
        assert trial.state.name in ("COMPLETE", "PRUNED", "FAIL")
        assert list(trial.intermediate_values.values()) == curve[: trial.last_step or 0].tolist()
        if trial.state.name == "COMPLETE":
            assert trial.last_step == EPOCHS
        if trial.state.name == "FAIL":  # killed again and again
            assert "its worker died" in trial.user_attrs["reason"]
    best = result["best"]["trial"]
    kept = [run.name for run in (sweep.out / "trials").iterdir() if (run / CHECKPOINTS_FOLDER).exists()]
    assert kept == [best]
    assert "<h2>Rungs</h2>" in (sweep.out / "sweep.html").read_text()


@pytest.mark.slow
def test_a_sweep_survives_an_interruption_and_kills(tiny_dataset: Path, tmp_path: Path) -> None:
    sweep = Sweep(tiny_dataset, tmp_path, 4)
    assert disturb(sweep, ("interrupt", "worker", "driver"), random.Random(0)) == 3
    check_whole(sweep, 4)


@pytest.mark.slow
def test_a_sweep_survives_twenty_random_kills(nodes: Nodes, tiny_dataset: Path, tmp_path: Path) -> None:
    """On a cluster of three nodes, of drivers, workers and nodes, with interruptions among them."""
    draw = random.Random(1)
    sweep = Sweep(tiny_dataset, tmp_path, 20, nodes)
    events = draw.choices(("driver", "worker", "node", "interrupt"), weights=(3, 3, 3, 1), k=20)
    assert disturb(sweep, events, draw) == 20
    check_whole(sweep, 20)
