"""The cost of a dataset-size study on this machine, from a few steps of each contestant."""

import os
import time
from contextlib import nullcontext
from typing import Any

from ...platform.config import Config
from ...platform.data.manifest import read_manifest
from ...platform.machine import torch_threads
from ...platform.planning import RAY_STARTUP_SECONDS, STARTUP_SECONDS, plan_train
from ...platform.storage import Location
from ...platform.training.runs import steps_of
from ..folders import claimed, record_cost, resolve
from ..scores import is_scored
from ..sweeps.planning import num_ended, plan_trials
from .cells import Cell, Grid, Pool, cell_config
from .conclusions import run_of
from .contestants import Contestant
from .retuning import sweep_config, sweep_folder
from .scale import Design, design_study, identity, measured_split


def plan_scale(
    config: Config,
    dataset: Location,
    names: list[str],
    sizes: list[int],
    seeds: int,
    *,
    draws: int = 1,
    trajectories: list[int] | None = None,
    out: Location | None = None,
    local: bool = False,
) -> dict[str, Any]:
    """A row for each contestant: its runs, their steps and seconds of work together; and the whole, with `seconds` by the clock.

    The parameters are those of `scale`, and what is measured in `out` is not planned again; the plan is kept there. Steps of a contestant
    all cost the same, so those of its largest cell are timed and the others worked out. InputError as in `scale`.
    """
    design = design_study(config, dataset, names, Grid(sizes, seeds, draws), trajectories, out, local)
    if out is None:
        return _plan(config, dataset, design, None, local)
    with claimed(out.absolute(), identity(config, dataset.absolute())):
        plan = _plan(config, dataset, design, out, local)
        record_cost(out, plan={"cells": plan["runs"], "seconds": plan["seconds"]})
    return plan


def _plan(config: Config, dataset: Location, design: Design, out: Location | None, local: bool) -> dict[str, Any]:
    contestants, pool = design.contestants, design.pool
    cells = design.grid.cells([each.name for each in contestants])
    pending = [cell for cell in cells if out is None or not is_scored(run_of(out, cell))]
    measured_rows = min(read_manifest(dataset)["counts"][measured_split(dataset)], config.evaluation.max_rows or 1 << 62)
    # Ray gives each worker as many threads as CPUs: one.
    with nullcontext() if local else torch_threads(1):
        rows = [
            _plan_contestant(contestant, dataset, pool, [cell for cell in pending if cell.contestant == contestant.name], measured_rows)
            for contestant in contestants
        ]
    retuning = 0.0
    if config.scaling.retune:
        with torch_threads(1):
            retuning, slower = _plan_retuning(config.scaling.retune, design, dataset, out)
        rows = [row | {key: row[key] * slower[row["name"]] for key in ("seconds", "longest_seconds")} for row in rows]
    at_once = 1 if local else max(1, min(config.scaling.max_concurrent or os.cpu_count() or 1, len(pending)))
    startup = STARTUP_SECONDS if local else RAY_STARTUP_SECONDS + 2 * STARTUP_SECONDS  # of this process, and of its workers
    startup += sum(row["prepare_seconds"] for row in rows)  # of run folders, one after another
    longest = max((row["longest_seconds"] for row in rows), default=0.0)
    return {
        "contestants": rows,
        "runs": len(pending),
        "at_once": at_once,
        "startup_seconds": startup,
        "retuning_seconds": retuning,
        "seconds": startup + retuning + max(sum(row["seconds"] for row in rows) / at_once, longest),
        "disk_bytes": sum(row["disk_bytes"] for row in rows),
        "memory_bytes": at_once * max((row["memory_bytes"] for row in rows), default=0),
    }


def _plan_retuning(trials: int, design: Design, dataset: Location, out: Location | None) -> tuple[float, dict[str, float]]:
    """Seconds by the clock of the trials that sweeps have left to do; and, by contestant, how much slower than with its own settings an
    epoch is on average in the space, from which the settings of its cells will come. Ray starts once for all.
    """
    seconds, slower = 0.0, {}
    for contestant in design.contestants:
        for size in design.grid.sizes:
            left = trials - (num_ended(sweep_folder(out, contestant.name, size)) if out is not None else 0)
            is_largest = size == max(design.grid.sizes)
            if left <= 0 and not is_largest:
                continue
            config = sweep_config(contestant.config, design.pool, contestant.name, size)
            plan = plan_trials(config, dataset, max(0, left))
            seconds += plan["seconds"] - RAY_STARTUP_SECONDS if left > 0 else 0.0
            if is_largest:
                slower[contestant.name] = plan["seconds_per_epoch"] / plan_train(config, dataset)["seconds_per_epoch"]
    return seconds, slower


def _plan_contestant(contestant: Contestant, dataset: Location, pool: Pool, cells: list[Cell], measured_rows: int) -> dict[str, Any]:
    if not cells:
        return {"name": contestant.name, "parameters": None, "runs": 0, "steps": 0, "seconds_per_step": None} | dict.fromkeys(
            ("seconds", "longest_seconds", "prepare_seconds", "disk_bytes", "memory_bytes"), 0
        )
    base = resolve(contestant.config, dataset)
    configs = sorted((cell_config(base, pool, cell) for cell in cells), key=lambda config: config.training.train_rows or 0)
    plan_train(configs[0], dataset)  # warms up, as the first cell of a worker does for the others
    largest = plan_train(configs[-1], dataset)
    started = time.perf_counter()
    resolve(configs[-1], dataset)
    prepare = time.perf_counter() - started

    def seconds_of(config: Config) -> float:
        settings = config.training
        an_epoch = (settings.val_rows or 0) * largest["seconds_per_row"] + largest["seconds_per_record"]
        work = steps_of(config) * largest["seconds_per_step"] + settings.epochs * an_epoch
        return largest["seconds_setup"] + work + measured_rows * largest["seconds_per_row"]

    seconds = [seconds_of(config) for config in configs]
    return {
        "name": contestant.name,
        "parameters": largest["parameters"],
        "runs": len(cells),
        "steps": sum(map(steps_of, configs)),
        "seconds_per_step": largest["seconds_per_step"],
        "seconds": sum(seconds),
        "longest_seconds": max(seconds),
        "prepare_seconds": len(cells) * prepare,
        "disk_bytes": len(cells) * largest["disk_bytes"],
        "memory_bytes": largest["memory_bytes"],
    }
