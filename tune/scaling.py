"""Dataset-size studies: how the test loss of an architecture falls with the number of training trajectories.

The output folder:

    study.json                       what is studied: dataset and settings
    runs/<arch>-<size>-<seed>/ ...   run folders, as `training` writes them, and test.json once measured
    scaling.json, scaling.csv, scaling.png    the cells asked for last
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..architectures import get_architecture, load_model
from ..physics import InputError
from ..physics.diagnostics import total_loss
from ..physics.files import read_json, write_file, write_json
from ..platform.config import Config, load_config
from ..platform.data.datasets import read_split
from ..platform.data.manifest import read_manifest
from ..platform.evaluation import predict_split
from ..platform.progress import track
from ..platform.provenance import changed_keys, code_version
from ..platform.training.loop import train
from ..platform.training.run_folder import CONFIG_FILE, prepare_run
from .fits import fit_power_law
from .folders import claimed, resolve
from .trials import attempt, read_failure, run_trials

CELL_FILE, RUNS_FOLDER = "test.json", "runs"
STATISTICS = ("median", "mean")


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    architecture: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.architecture}-{self.size}-{self.seed}"


def scale(config: Config, dataset: Path, out: Path, architectures: list[str], sizes: list[int], seeds: int) -> dict[str, Any]:
    """Train every (architecture, size, seed) cell, measure it on the test split and fit loss = a size^(-b); returns the result.

    A cell trains on the first `size` rows with training seed 0 ... seeds - 1, for the same number of epochs
    (`training.epochs`) whatever its size: small cells take fewer optimiser steps. Each is measured by the total
    loss of its best model by validation loss; on the val split, and the result says so, where the dataset has
    no test rows. The architecture of `config` keeps its settings, the others take their defaults.

    Run again, it skips cells that are done and continues those begun from their checkpoints; sizes, seeds and
    architectures may be added. A cell that fails is listed with its reason and tried again the next time.

    Raises
    ------
    InputError
        For a size larger than the dataset or another bad grid, before anything runs; where `out` holds
        anything but this study; or where every cell failed.
    """
    dataset, out = dataset.absolute(), out.absolute()
    manifest = read_manifest(dataset)
    _check_grid(architectures, sizes, seeds, manifest["counts"]["train"])
    bases = {name: resolve(_base(config, name), dataset) for name in architectures}
    cells = [Cell(name, size, seed) for name in architectures for size in sizes for seed in range(seeds)]
    split = "test" if manifest["counts"]["test"] else "val"
    with claimed(out, _identity(config, manifest, split)):
        pending = [cell for cell in cells if not (_folder(out, cell) / CELL_FILE).exists()]
        for cell in cells:
            wanted = bases[cell.architecture].override({"training.train_rows": cell.size, "training.seed": cell.seed})
            _check_unchanged(_folder(out, cell), wanted)
            if cell in pending:
                prepare_run(_folder(out, cell), dataset, wanted, resume=True)
        if pending:
            _run(config, dataset, out, pending, split)
        return _conclude(config, dataset, out, cells, len(pending), split)


def _check_grid(architectures: list[str], sizes: list[int], seeds: int, num_rows: int) -> None:
    for flag, values in (("--arch", architectures), ("--sizes", sizes)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{flag} is {','.join(map(str, values))!r}; give one or more different values")
    for name in architectures:
        get_architecture(name)
    wrong = [size for size in sizes if not 1 <= size <= num_rows]
    if wrong:
        given = ", ".join(map(str, wrong))
        raise InputError(f"--sizes has {given}; the dataset has {num_rows} training rows: give sizes from 1 to {num_rows}")
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; ask for at least 1")


def _base(config: Config, architecture: str) -> Config:
    # What a cell varies starts from one value, so that no leftover of the file reaches a run.
    return config.override({"architecture.name": architecture, "training.train_rows": None, "training.seed": 0})


def _identity(config: Config, manifest: dict[str, Any], split: str) -> dict[str, Any]:
    values = config.dump()
    return {
        "kind": "dataset-size study",
        "dataset_hash": manifest["dataset_hash"],
        "split": split,
        "training": {key: value for key, value in values["training"].items() if key not in ("train_rows", "seed")},
        "max_rows": config.evaluation.max_rows,
    }


def _check_unchanged(run: Path, wanted: Config) -> None:
    """A cell done or begun with other settings must not pass for one of this study."""
    if not (run / CONFIG_FILE).exists():
        return
    before, now = load_config(run / CONFIG_FILE).dump(), wanted.dump()
    changes = changed_keys(*({section: values[section] for section in ("architecture", "training")} for values in (before, now)))
    if changes:
        raise InputError(f"--out {str(run.parent.parent)!r} already holds cell {run.name} with {changes}; choose another folder")


def _folder(out: Path, cell: Cell) -> Path:
    return out / RUNS_FOLDER / cell.name


def _run(config: Config, dataset: Path, out: Path, cells: list[Cell], split: str) -> None:
    from ..platform.ray_runtime import connect

    connect()  # before Ray is imported: it reads its settings once
    from ray import tune

    settings = config.evaluation

    def work(parameters: dict[str, Any]) -> None:
        run = Path(parameters["run"])

        def finish() -> None:
            result = train(load_config(run / CONFIG_FILE), dataset, run, lambda record: tune.report(record))
            losses = _measure(dataset, split, run, settings.max_rows, settings.batch_size)
            write_json(run / CELL_FILE, losses | {key: result[key] for key in ("num_parameters", "epochs", "validation_loss", "seconds")})

        attempt(run, finish)

    with track(f"scale {', '.join(dict.fromkeys(cell.architecture for cell in cells))}", len(cells)) as progress:
        # Long cells first: a short one last leaves no core idle for long.
        runs = [str(_folder(out, cell)) for cell in sorted(cells, key=lambda cell: -cell.size)]
        run_trials(work, out / ".ray", progress, config.scaling.max_concurrent, param_space={"run": tune.grid_search(runs)})


def _measure(dataset: Path, split_name: str, run: Path, max_rows: int | None, batch_size: int) -> dict[str, Any]:
    available = read_manifest(dataset)["counts"][split_name]
    split = read_split(dataset, split_name, min(max_rows or available, available))
    q, p = predict_split(load_model(run / "model"), split, batch_size)
    losses = total_loss(*(states.reshape(len(states), -1) for states in (q, p, split.q, split.p)))
    return {"split": split_name, "rows": len(split), "median": float(np.median(losses)), "mean": float(np.mean(losses))}


def _conclude(config: Config, dataset: Path, out: Path, cells: list[Cell], num_new: int, split: str) -> dict[str, Any]:
    rows = [_row(out, cell) for cell in cells]
    measured = [row for row in rows if row["state"] == "finished"]
    if not measured:
        raise InputError(f"all {len(rows)} cells in {str(out)!r} failed; the first because {rows[0]['reason']}")
    result = {
        "schema_version": 1,
        "out": str(out),
        "dataset": {"folder": str(dataset), "hash": read_manifest(dataset)["dataset_hash"], "split": split, "rows": measured[0]["rows"]},
        "epochs": config.training.epochs,
        "note": f"every cell trains {config.training.epochs} epochs whatever its size, so smaller ones take fewer optimiser steps",
        "confidence": config.scaling.confidence,
        "cells": rows,
        "new_cells": num_new,
        "failed_cells": len(rows) - len(measured),
        "fits": _fits(measured, config.scaling.confidence),
        "code_version": code_version(),
        "files": {kind: str(out / f"scaling.{kind}") for kind in ("json", "csv", "png")},
    }
    write_json(out / "scaling.json", result)
    _write_csv(out / "scaling.csv", rows)
    from .plots import plot_scaling

    write_file(out / "scaling.png", plot_scaling(result))
    return result


def _row(out: Path, cell: Cell) -> dict[str, Any]:
    run = _folder(out, cell)
    values = {"architecture": cell.architecture, "size": cell.size, "seed": cell.seed}
    keys = ("median", "mean", "validation_loss", "epochs", "seconds", "num_parameters", "rows")
    if (run / CELL_FILE).exists():
        measured = read_json(run / CELL_FILE)
        return values | {"state": "finished"} | {key: measured[key] for key in keys} | {"reason": None}
    return values | {"state": "failed"} | dict.fromkeys(keys) | {"reason": read_failure(run) or "it did not end"}


def _fits(rows: list[dict[str, Any]], confidence: float) -> dict[str, dict[str, Any]]:
    """architecture -> statistic -> fit over its cells."""
    fits: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["architecture"] for row in rows):
        mine = [row for row in rows if row["architecture"] == name]
        fits[name] = {s: fit_power_law([row["size"] for row in mine], [row[s] for row in mine], confidence) for s in STATISTICS}
    return fits


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    write_file(path, text.getvalue().encode())
