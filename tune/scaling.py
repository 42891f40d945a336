"""Dataset-size studies: how the test loss of contestants falls with the number of training trajectories, and who is ahead.

The output folder:

    study.json                       what is studied: dataset and settings
    runs/<name>-<size>-<seed>/ ...   run folders, as `training` writes them; test.json and losses.npy once measured
    scaling.json, scaling.csv, scaling.md, scaling.png, scaling.svg    the cells asked for last
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..physics import InputError
from ..physics.files import write_file, write_json
from ..platform.config import Config, load_config
from ..platform.data.manifest import read_manifest
from ..platform.progress import Progress, track
from ..platform.provenance import changed_keys, code_version
from ..platform.training.loop import Report, train
from ..platform.training.run_folder import CONFIG_FILE, prepare_run
from ..platform.training.runs import steps_of
from .contestants import read_contestants
from .fits import ScalingLaw
from .folders import claimed, resolve
from .laws import by_size, compare_all, comparison_text, fit_losses, fit_text
from .scores import FIGURES, LOSSES_FILE, STATISTICS, compare_pairs, is_scored, read_score, score_cell, summarise_seeds
from .trials import attempt, read_failure, run_trials

RUNS_FOLDER = "runs"


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    contestant: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.contestant}-{self.size}-{self.seed}"


def scale(
    config: Config, dataset: Path, out: Path, names: list[str], sizes: list[int], seeds: int, *, local: bool = False
) -> dict[str, Any]:
    """Train every (contestant, size, seed) cell, measure it on the test split and fit loss = E + A size^(-alpha).

    A cell trains on the first `size` rows, and selects its model by as large a fraction of the validation split, with training
    seed 0 ... seeds - 1. The protocol is equal-steps, `scaling.steps` for each cell, or else equal-epochs: `training.epochs`
    whatever the size, which leaves small cells fewer steps. Each is measured by its best model; on the val split, and the result
    says so, where the dataset has no test rows. `names` are contestants: see `read_contestants`. Cells run under Ray Tune; with
    `local` one after another in this process, without Ray.

    Run again, it skips cells that are done and continues those begun from their checkpoints; sizes, seeds and
    contestants may be added. A cell that fails is listed with its reason and tried again the next time.

    Raises
    ------
    InputError
        For a size larger than the dataset or another bad grid, before anything runs; where `out` holds
        anything but this study; or where every cell failed.
    """
    dataset, out = dataset.absolute(), out.absolute()
    manifest = read_manifest(dataset)
    contestants = read_contestants(config, names)
    check_grid(sizes, seeds, manifest["counts"]["train"])
    bases = {contestant.name: resolve(contestant.config, dataset) for contestant in contestants}
    cells = [Cell(name, size, seed) for name in bases for size in sizes for seed in range(seeds)]
    split = "test" if manifest["counts"]["test"] else "val"
    with claimed(out, _identity(config, manifest, split)):
        pending = [cell for cell in cells if not is_scored(_folder(out, cell))]
        for cell in cells:
            wanted = cell_config(bases[cell.contestant], manifest["counts"], cell.size, cell.seed)
            _check_unchanged(_folder(out, cell), wanted)
            if cell in pending:
                prepare_run(_folder(out, cell), dataset, wanted, resume=True)
        if pending:
            _run(config, dataset, out, pending, split, local)
        return _conclude(config, dataset, out, cells, len(pending), split)


def cell_config(base: Config, counts: dict[str, int], size: int, seed: int) -> Config:
    """The configuration of a cell: its rows, its seed, and as many epochs as its budget has."""
    settings, rows = base.training, {"training.train_rows": size, "training.val_rows": -(-counts["val"] * size // counts["train"])}
    if base.scaling.steps is not None:
        epochs = max(1, round(base.scaling.steps / -(-size // settings.batch_size)))
        rows |= {"training.epochs": epochs, "training.warmup_epochs": settings.warmup_epochs * epochs / settings.epochs}
    return base.override(rows | {"training.seed": seed})


def check_grid(sizes: list[int], seeds: int, num_rows: int) -> None:
    """Raise InputError for sizes and seeds that a study of so many rows cannot have."""
    if not sizes or len(set(sizes)) < len(sizes):
        raise InputError(f"--sizes is {','.join(map(str, sizes))!r}; give one or more different values")
    wrong = [size for size in sizes if not 1 <= size <= num_rows]
    if wrong:
        given = ", ".join(map(str, wrong))
        raise InputError(f"--sizes has {given}; the dataset has {num_rows} training rows: give sizes from 1 to {num_rows}")
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; ask for at least 1")


def _identity(config: Config, manifest: dict[str, Any], split: str) -> dict[str, Any]:
    values = config.dump()
    return {
        "kind": "dataset-size study",
        "dataset_hash": manifest["dataset_hash"],
        "split": split,
        "training": {key: value for key, value in values["training"].items() if key not in ("train_rows", "val_rows", "seed")},
        "steps": config.scaling.steps,
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


def _run(config: Config, dataset: Path, out: Path, cells: list[Cell], split: str, local: bool) -> None:
    # Long cells first: a short one last leaves no core idle for long.
    runs = [_folder(out, cell) for cell in sorted(cells, key=lambda cell: -cell.size)]
    work = _Work(dataset, split, config.evaluation.max_rows, config.evaluation.batch_size)
    with track(f"scale {', '.join(dict.fromkeys(cell.contestant for cell in cells))}", len(cells)) as progress:
        if local:
            _run_here(work, runs, progress)
        else:
            _run_on_tune(work, runs, out / ".ray", progress, config.scaling.max_concurrent)


@dataclass(frozen=True)
class _Work:
    """Trains a cell and measures it."""

    dataset: Path
    split: str
    max_rows: int | None
    batch_size: int

    def __call__(self, run: Path, report: Report) -> None:
        def finish() -> None:
            config = load_config(run / CONFIG_FILE)
            result = train(config, self.dataset, run, report)
            about = {key: result[key] for key in ("architecture", "num_parameters", "epochs", "validation_loss", "seconds")}
            score_cell(run, self.dataset, self.split, self.max_rows, self.batch_size, about | {"steps": steps_of(config)})

        attempt(run, finish)


def _run_here(work: Callable[[Path, Report], None], runs: list[Path], progress: Progress) -> None:
    for run in runs:
        work(run, lambda _: None)
        progress.advance()


def _run_on_tune(work: Callable[[Path, Report], None], runs: list[Path], scratch: Path, progress: Progress, max_concurrent: int) -> None:
    from ..platform.ray_runtime import connect

    connect()  # before Ray is imported: it reads its settings once
    from ray import tune

    grid = {"run": tune.grid_search([str(run) for run in runs])}
    run_trials(lambda given: work(Path(given["run"]), tune.report), scratch, progress, max_concurrent, param_space=grid)


def _conclude(config: Config, dataset: Path, out: Path, cells: list[Cell], num_new: int, split: str) -> dict[str, Any]:
    rows = [_row(out, cell) for cell in cells]
    measured = [row for row in rows if row["state"] == "finished"]
    if not measured:
        raise InputError(f"all {len(rows)} cells in {str(out)!r} failed; the first because {rows[0]['reason']}")
    steps, epochs, confidence = config.scaling.steps, config.training.epochs, config.scaling.confidence
    fits, laws = _fits(measured, confidence)
    result = {
        "schema_version": 2,
        "out": str(out),
        "dataset": {"folder": str(dataset), "hash": read_manifest(dataset)["dataset_hash"], "split": split, "rows": measured[0]["rows"]},
        "protocol": "equal-steps" if steps else "equal-epochs",
        "budget": f"{steps} steps" if steps else f"{epochs} epochs",
        "note": f"protocol equal-steps: every cell trains {steps} steps, to a whole epoch"
        if steps
        else f"protocol equal-epochs: every cell trains {epochs} epochs whatever its size, so smaller ones take fewer optimiser steps, "
        "and the exponent measures optimisation as well as data",
        "confidence": confidence,
        "cells": rows,
        "new_cells": num_new,
        "failed_cells": len(rows) - len(measured),
        "fits": fits,
        "summaries": _summaries(measured),
        "pairs": _pairs(out, measured, confidence),
        "law_pairs": {statistic: compare_all({name: law for name, law in laws[statistic].items() if law}) for statistic in STATISTICS},
        "code_version": code_version(),
        "files": {kind: str(out / f"scaling.{kind}") for kind in ("json", "csv", "md", "png", "svg")},
    }
    write_json(out / "scaling.json", result)
    _write_csv(out / "scaling.csv", rows)
    write_file(out / "scaling.md", study_tables(result).encode())
    from .plots import FORMATS, STATISTIC, plot_scaling

    for kind in FORMATS:
        write_file(out / f"scaling.{kind}", plot_scaling(result, laws[STATISTIC], kind))
    return result


def _row(out: Path, cell: Cell) -> dict[str, Any]:
    run = _folder(out, cell)
    values = {"name": cell.contestant, "size": cell.size, "seed": cell.seed}
    keys = ("architecture", *FIGURES, "validation_loss", "epochs", "steps", "seconds", "num_parameters")
    if is_scored(run):
        measured = read_score(run)
        return values | {"state": "finished"} | {key: measured[key] for key in keys} | {"reason": None}
    return values | {"state": "failed"} | dict.fromkeys(keys) | {"reason": read_failure(run) or "it did not end"}


def _groups(rows: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "size": size} | summarise_seeds(own) for (name, size), own in _groups(rows, "name", "size").items()]


def _pairs(out: Path, rows: list[dict[str, Any]], confidence: float) -> list[dict[str, Any]]:
    """Comparisons at each size."""
    pairs = []
    for (size,), of_size in sorted(_groups(rows, "size").items()):
        losses = {
            name: [np.load(_folder(out, Cell(name, size, row["seed"])) / LOSSES_FILE) for row in own]
            for (name,), own in _groups(of_size, "name").items()
        }
        pairs += [{"size": size} | pair for pair in compare_pairs(losses, confidence)]
    return pairs


def _fits(
    rows: list[dict[str, Any]], confidence: float
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, dict[str, ScalingLaw | None]]]:
    """contestant -> statistic -> fit over its cells, and statistic -> contestant -> law."""
    fits: dict[str, dict[str, dict[str, Any]]] = {}
    laws: dict[str, dict[str, ScalingLaw | None]] = {statistic: {} for statistic in STATISTICS}
    for (name,), own in _groups(rows, "name").items():
        fits[name] = {}
        for statistic in STATISTICS:
            fits[name][statistic], laws[statistic][name] = fit_losses(by_size(own, statistic), confidence)
    return fits, laws


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    write_file(path, text.getvalue().encode())


def study_tables(result: dict[str, Any]) -> str:
    """The study in Markdown: a row for each contestant and size, and which contestants differ."""
    heads = ["contestant", "rows", "median", "mean", "p99", "energy drift", "parameters", "steps", "training", "per trajectory"]
    lines = [heads, ["---"] * len(heads)]
    for row in result["summaries"]:
        losses = [f"{row[key]:.2g} ({row[f'{key}_range'][0]:.2g} to {row[f'{key}_range'][1]:.2g})" for key in STATISTICS]
        lines.append(
            [
                f"`{row['name']}`", f"{row['size']:,}", *losses, f"{row['energy_drift']:.2g}", f"{row['num_parameters']:,.0f}",
                f"{row['steps']:,.0f}", f"{row['seconds'] / 60:.3g} min", f"{1e3 * row['seconds_per_trajectory']:.3g} ms",
            ]
        )  # fmt: skip
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    dataset = result["dataset"]
    about = (
        f"Total loss on {dataset['rows']:,} rows of split `{dataset['split']}`, dataset `{dataset['hash'][:16]}`: medians over the seeds, "
        f"and in brackets their range; {result['note']}. The energy drift is the median of a row's largest, relative to its energy scale.\n"
    )
    fits = [
        f"- {name}, {statistic}: {fit_text(fit, result['confidence'])}"
        for name, laws in result["fits"].items()
        for statistic, fit in laws.items()
    ]
    heading = "Contestants compared by their laws, each fitted by itself:"
    by_laws = [f"- {s}: {comparison_text(pair, result['confidence'])}" for s, laws in result["law_pairs"].items() for pair in laws]
    compared = "Losses compared row by row and seed by seed, by the mean of the ratio's logarithm:"
    pairs = [f"- {pair_text(pair, result['confidence'])}" for pair in result["pairs"]]
    sections = [[about, table], fits, *([first, "", *lines] for first, lines in ((heading, by_laws), (compared, pairs)) if lines)]
    return "\n".join(line for section in sections for line in [*section, ""])


def pair_text(pair: dict[str, Any], confidence: float) -> str:
    """What a comparison of two contestants says, as a sentence."""
    if pair["interval"] is None:
        return f"{pair['size']:,} rows: one seed cannot distinguish `{pair['better']}` from `{pair['worse']}` (ratio {pair['ratio']:.3g})"
    low, high = pair["interval"]
    ratio = f"{pair['ratio']:.3g} ({low:.3g} to {high:.3g} at {confidence:.0%})"
    if pair["distinguishable"]:
        return f"{pair['size']:,} rows: the losses of `{pair['worse']}` are {ratio} times those of `{pair['better']}`"
    return f"{pair['size']:,} rows: `{pair['better']}` and `{pair['worse']}` do not differ significantly, ratio {ratio}"
