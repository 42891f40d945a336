"""The cost of a dataset-size study on this machine, from a few steps of each contestant."""

from pathlib import Path
from typing import Any

from ..platform.config import Config
from ..platform.data.manifest import read_manifest
from ..platform.planning import plan_train
from ..platform.training.runs import steps_of
from .contestants import Contestant, read_contestants
from .scaling import cell_config, check_grid


def plan_scale(config: Config, dataset: Path, names: list[str], sizes: list[int], seeds: int) -> dict[str, Any]:
    """A row for each contestant: its runs, their steps and seconds together; and the sums.

    A contestant's steps all cost the same, so those of its largest cell are timed and the others worked out. InputError as in `scale`.
    """
    counts = read_manifest(dataset)["counts"]
    check_grid(sizes, seeds, counts["train"])
    rows = [_plan_contestant(contestant, dataset, counts, sizes, seeds) for contestant in read_contestants(config, names)]
    total = {key: sum(row[key] for row in rows) for key in ("runs", "seconds", "disk_bytes")}
    return {"contestants": rows, **total, "memory_bytes": max(row["memory_bytes"] for row in rows)}


def _plan_contestant(contestant: Contestant, dataset: Path, counts: dict[str, int], sizes: list[int], seeds: int) -> dict[str, Any]:
    largest = plan_train(cell_config(contestant.config, counts, max(sizes), 0), dataset)
    seconds_a_step = largest["seconds"] / largest["steps"]  # with validation and checkpoints
    steps = seeds * sum(steps_of(cell_config(contestant.config, counts, size, 0)) for size in sizes)
    runs = seeds * len(sizes)
    return {
        "name": contestant.name,
        "parameters": largest["parameters"],
        "runs": runs,
        "steps": steps,
        "seconds_per_step": largest["seconds_per_step"],
        "seconds": steps * seconds_a_step,
        "disk_bytes": runs * largest["disk_bytes"],
        "memory_bytes": largest["memory_bytes"],
    }
