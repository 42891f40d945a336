"""Dataset-size studies under kill -9 at random moments: they end with exactly the cells that were asked for, and with the same losses."""

import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from process_helpers import Nodes, ray_workers

from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.tune.scaling.scale import scale

NAMES, SIZES, SEEDS, DRAWS = ["deeponet"], [8, 32], 2, 2
SETTINGS = {
    "architecture.name": "deeponet", "architecture.width": 8, "architecture.num_layers": 1, "architecture.num_channels": 4,
    "training.epochs": 6, "training.batch_size": 8, "training.trackers": [], "scaling.steps": 60,
}  # fmt: skip


def tiny(steps: int) -> Config:
    return load_config(None, SETTINGS | {"scaling.steps": steps})


def study(dataset: Path, out: Path, steps: int = 60) -> dict[str, Any]:
    return scale(tiny(steps), dataset, out, NAMES, SIZES, SEEDS, draws=DRAWS, local=True)


def outcome(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """All that a cell has in common with the same cell of an undisturbed study."""
    return [
        tuple(row[key] for key in ("name", "size", "draw", "seed", "state", "epochs", "steps", "median", "mean")) for row in result["cells"]
    ]


def num_epochs(out: Path) -> int:
    """Epochs that are on record, of all cells."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("runs/*/history.jsonl"))


def wait_for_progress(out: Path, before: int, is_alive: Any) -> bool:
    """Until more epochs are on record than before; False where the work ended first."""
    while num_epochs(out) <= before:
        if not is_alive():
            return False
        time.sleep(0.002)
    return True


def test_a_study_that_is_killed_again_and_again(tiny_dataset: Path, tmp_path: Path) -> None:
    """Each process is killed at a random moment after its first new epoch, inside a cell or between two, and none starts over."""
    undisturbed = study(tiny_dataset, tmp_path / "undisturbed")
    out, moments, kills = tmp_path / "killed", random.Random(0), 0
    fork = multiprocessing.get_context("fork")
    for _ in range(5):
        before = num_epochs(out)
        process = fork.Process(target=study, args=(tiny_dataset, out))
        process.start()
        if wait_for_progress(out, before, process.is_alive):
            time.sleep(moments.uniform(0.0, 0.2))
            kills += process.is_alive()
        process.kill()
        process.join()
    assert kills >= 2, "the study must be at work to be killed"
    result = study(tiny_dataset, out)
    assert outcome(result) == outcome(undisturbed)
    assert len(result["cells"]) == len(SIZES) * SEEDS * DRAWS and result["failed_cells"] == 0
    assert len(list((out / "runs").iterdir())) == len(result["cells"])


def ray_command(dataset: Path, out: Path, steps: int) -> list[str]:
    """As a user types it."""
    settings = SETTINGS | {"scaling.steps": steps}
    assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    grid = ["--arch", ",".join(NAMES), "--sizes", ",".join(map(str, SIZES)), "--seeds", str(SEEDS), "--draws", str(DRAWS)]
    return [sys.executable, "-m", "neural_hamilton.platform", "scale", str(dataset), "--out", str(out), *grid, *assignments]


@pytest.mark.slow
def test_a_study_on_ray_whose_workers_nodes_and_drivers_are_killed(nodes: Nodes, tiny_dataset: Path, tmp_path: Path) -> None:
    """Up to fifteen kills: under each of five drivers a worker, then a node, then the driver. A last call finishes what is left."""
    steps = 600
    undisturbed = study(tiny_dataset, tmp_path / "undisturbed", steps)
    out, moments, kills = tmp_path / "killed", random.Random(1), {"worker": 0, "node": 0, "driver": 0}
    environment = os.environ | nodes.environment
    for _ in range(5):
        before = num_epochs(out)
        process = subprocess.Popen(
            ray_command(tiny_dataset, out, steps), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for kind in kills:
            if not wait_for_progress(out, before, lambda process=process: process.poll() is None):
                break
            time.sleep(moments.uniform(0.0, 0.5))
            kills[kind] += _kill(kind, process, nodes, moments)
            before = num_epochs(out)
        process.kill()
        process.wait()
    assert min(kills.values()) >= 2, kills
    subprocess.run(ray_command(tiny_dataset, out, steps), env=environment, check=True, stdout=subprocess.DEVNULL)
    result = study(tiny_dataset, out, steps)
    assert result["new_cells"] == 0 and result["failed_cells"] == 0
    assert outcome(result) == outcome(undisturbed)


def _kill(kind: str, driver: "subprocess.Popen[bytes]", nodes: Nodes, moments: random.Random) -> bool:
    """Whether there was anything to kill."""
    if kind == "node":
        nodes.replace()
        return True
    workers = ray_workers(os.getpid(), "ImplicitFunc")
    if kind == "worker" and workers:
        moments.choice(workers).kill()
        return True
    if kind == "driver" and driver.poll() is None:
        driver.kill()
        return True
    return False
