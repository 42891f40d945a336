"""What the cells of a dataset-size study show: losses, laws, comparisons; as JSON, CSV, Parquet, Markdown and a figure."""

import csv
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics import InputError
from ...physics.files import atomic_file, write_file, write_json
from ...platform.config import Config
from ...platform.data.manifest import read_manifest
from ...platform.provenance import code_version
from ...platform.storage import Location
from ..fits import ScalingLaw
from ..scores import FIGURES, STATISTICS, compare_pairs, is_scored, read_losses, read_score, summarise_seeds
from ..trials import read_failure
from .cells import TO_CONVERGENCE, Cell, budget_text, protocol_of, protocol_text
from .laws import by_size, compare_all, comparison_text, fit_losses, fit_text

RUNS_FOLDER = "runs"
_KINDS = ("json", "csv", "parquet", "md")
_MEASURED = ("architecture", *FIGURES, "validation_loss", "epochs", "steps", "seconds", "num_parameters")
_COLUMNS = {
    **{key: pa.string() for key in ("protocol", "name", "state", "architecture", "reason")},
    **{key: pa.int64() for key in ("size", "draw", "seed", "rows", "epochs", "steps", "num_parameters")},
    "converged": pa.bool_(),
}


def run_of(out: Location, cell: Cell) -> Location:
    """The run folder of a cell."""
    return out / RUNS_FOLDER / cell.name


def conclude(config: Config, dataset: Location, out: Location, cells: list[Cell], split: str, about: dict[str, Any]) -> dict[str, Any]:
    """The result of a study, with `about` in it, also as files: of `cells`, and of all other cells in the folder that have ended.

    Raises InputError where none was measured.
    """
    protocol, confidence = protocol_of(config), config.scaling.confidence
    rows = [{"protocol": protocol} | _row(out, cell, protocol) for cell in _with_others(out, cells)]
    measured = [row for row in rows if row["state"] == "finished"]
    if not measured:
        raise InputError(f"all {len(rows)} cells in {str(out)!r} failed; the first because {rows[0]['reason']}")
    fits, laws = _fits(measured, confidence)
    from .law_figure import FORMATS, STATISTIC, plot_scaling

    result = {
        "schema_version": 3,
        "out": str(out),
        "dataset": {"folder": str(dataset), "hash": read_manifest(dataset)["dataset_hash"], "split": split, "rows": measured[0]["rows"]},
        "protocol": protocol,
        "budget": budget_text(config),
        "note": _note(config, measured),
        "confidence": confidence,
        "repetitions": "draws" if _several_draws(measured) else "seeds",
        "cells": rows,
        "failed_cells": len(rows) - len(measured),
        "fits": fits,
        "summaries": _summaries(measured),
        "pairs": _pairs(out, measured, confidence),
        "law_pairs": {statistic: compare_all({name: law for name, law in laws[statistic].items() if law}) for statistic in STATISTICS},
        "code_version": code_version(),
        "files": {kind: str(out / f"scaling.{kind}") for kind in (*_KINDS, *FORMATS)},
        **about,
    }
    write_json(out / "scaling.json", result)
    _write_csv(out / "scaling.csv", rows)
    _write_parquet(out / "scaling.parquet", rows)
    write_file(out / "scaling.md", study_tables(result).encode())
    for kind in FORMATS:
        write_file(out / f"scaling.{kind}", plot_scaling(result, laws[STATISTIC], kind))
    return result


def _with_others(out: Location, cells: list[Cell]) -> list[Cell]:
    """The cells, and others in the folder that have ended, by contestant and size."""
    folders = sorted((out / RUNS_FOLDER).iterdir())
    ended = [cell for cell in (Cell.parse(run.name) for run in folders if is_scored(run) or read_failure(run)) if cell is not None]
    names = list(dict.fromkeys(cell.contestant for cell in (*cells, *ended)))
    return sorted({*cells, *ended}, key=lambda cell: (names.index(cell.contestant), cell.size, cell.draw, cell.seed))


def _row(out: Location, cell: Cell, protocol: str) -> dict[str, Any]:
    run = run_of(out, cell)
    values = {"name": cell.contestant, "size": cell.size, "draw": cell.draw, "seed": cell.seed}
    if is_scored(run):
        measured = read_score(run)
        converged = measured["stopped_early"] if protocol == TO_CONVERGENCE else None
        return values | {"state": "finished"} | {key: measured[key] for key in _MEASURED} | {"converged": converged, "reason": None}
    return values | {"state": "failed"} | dict.fromkeys((*_MEASURED, "converged")) | {"reason": read_failure(run) or "it did not end"}


def _note(config: Config, measured: list[dict[str, Any]]) -> str:
    parts = [protocol_text(config)]
    if config.scaling.retune:
        parts.append(f"the settings of each size are the best of a sweep of {config.scaling.retune} trials on its rows of the first draw")
    unfinished = sum(row["converged"] is False for row in measured)
    if unfinished:
        parts.append(f"{unfinished} of {len(measured)} cells reached the most steps before that, so their losses are upper limits")
    if _several_draws(measured):
        parts.append("intervals cover draws of the dataset and seeds: a repetition is the geometric mean over the seeds of a draw")
    else:
        parts.append("all cells train on one draw of the dataset, so intervals cover training seeds alone")
    return "; ".join(parts)


def _several_draws(rows: list[dict[str, Any]]) -> bool:
    return len({row["draw"] for row in rows}) > 1


def _groups(rows: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "size": size, "draws": len({row["draw"] for row in own})} | summarise_seeds(own)
        for (name, size), own in _groups(rows, "name", "size").items()
    ]


def _pairs(out: Location, rows: list[dict[str, Any]], confidence: float) -> list[dict[str, Any]]:
    """Comparisons at each size, of the draws and seeds that all contestants there have."""
    pairs = []
    for (size,), of_size in sorted(_groups(rows, "size").items()):
        names = list(dict.fromkeys(row["name"] for row in of_size))
        common = set.intersection(*({(row["draw"], row["seed"]) for row in of_size if row["name"] == name} for name in names))
        if common:
            repetitions = sorted(_repetitions(common))
            losses = {name: [_mean_losses(out, name, size, runs) for runs in repetitions] for name in names}
            pairs += [{"size": size} | pair for pair in compare_pairs(losses, confidence)]
    return pairs


def _repetitions(runs: set[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Runs (draw, seed) that count as one each: the seeds of a draw together, where there are several draws."""
    draws = sorted({draw for draw, _ in runs})
    return [[run] for run in sorted(runs)] if len(draws) == 1 else [sorted(run for run in runs if run[0] == draw) for draw in draws]


def _mean_losses(out: Location, name: str, size: int, runs: list[tuple[int, int]]) -> np.ndarray:
    """The geometric mean over the runs of the loss of each row."""
    logs = [np.log(read_losses(run_of(out, Cell(name, size, seed, draw)))) for draw, seed in runs]
    return np.exp(np.mean(logs, axis=0))


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


def _write_csv(path: Location, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    write_file(path, text.getvalue().encode())


def _write_parquet(path: Location, rows: list[dict[str, Any]]) -> None:
    schema = pa.schema([(key, _COLUMNS.get(key, pa.float64())) for key in rows[0]])
    with atomic_file(path) as stream:
        pq.write_table(pa.Table.from_pylist(rows, schema), stream)


def study_tables(result: dict[str, Any]) -> str:
    """The study in Markdown: a row for each contestant and size, and which contestants differ."""
    heads = ["contestant", "rows", "runs", "median", "mean", "p99", "energy drift", "parameters", "steps", "training", "per trajectory"]
    lines = [heads, ["---"] * len(heads)]
    for row in result["summaries"]:
        losses = [f"{row[key]:.2g} ({row[f'{key}_range'][0]:.2g} to {row[f'{key}_range'][1]:.2g})" for key in STATISTICS]
        lines.append(
            [
                f"`{row['name']}`", f"{row['size']:,}", f"{row['seeds']}", *losses, f"{row['energy_drift']:.2g}",
                f"{row['num_parameters']:,.0f}", f"{row['steps']:,.0f}", f"{row['seconds'] / 60:.3g} min",
                f"{1e3 * row['seconds_per_trajectory']:.3g} ms",
            ]
        )  # fmt: skip
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    dataset = result["dataset"]
    about = (
        f"Total loss on {dataset['rows']:,} rows of split `{dataset['split']}`, dataset `{dataset['hash'][:16]}`: medians over the runs, "
        f"and in brackets their range; {result['note']}. The energy drift is the median of a row's largest, relative to its energy scale.\n"
    )
    fits = [
        f"- {name}, {statistic}: {fit_text(fit, result['confidence'])}"
        for name, laws in result["fits"].items()
        for statistic, fit in laws.items()
    ]
    compared = [[heading, "", *(f"- {text}" for text in texts)] for heading, texts in comparison_texts(result) if texts]
    retuned = [[heading, "", *(f"- {text}" for text in texts)] for heading, texts in [retuning_texts(result)] if texts]
    sections = [[about, table], fits, *compared, *retuned]
    return "\n".join(line for section in sections for line in [*section, ""])


def comparison_texts(result: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """A heading and its lines, for the comparison of laws and for that of losses."""
    confidence = result["confidence"]
    by_laws = [f"{statistic}: {comparison_text(pair, confidence)}" for statistic, laws in result["law_pairs"].items() for pair in laws]
    return [
        ("Contestants compared by their laws, each fitted by itself:", by_laws),
        (
            f"Losses compared row by row and {'draw by draw' if result['repetitions'] == 'draws' else 'seed by seed'}, "
            "by the mean of the ratio's logarithm:",
            [pair_text(pair, confidence) for pair in result["pairs"]],
        ),
    ]


def retuning_texts(result: dict[str, Any]) -> tuple[str, list[str]]:
    """A heading and its lines, for what the sweeps of a study found and cost; no lines without any."""
    minutes = sum(row["wall_seconds"] for row in result["retuning"]) / 60
    return f"Settings by size, from sweeps of {minutes:.3g} min in all:", [_retuning_text(row) for row in result["retuning"]]


def _retuning_text(row: dict[str, Any]) -> str:
    settings = ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row["parameters"].items())
    cost = f"{row['trials']} trials in {row['wall_seconds'] / 60:.3g} min"
    return "; ".join([f"{row['name']}, {row['size']:,} rows, {cost}: {settings}", *row["at_edges"]])


def pair_text(pair: dict[str, Any], confidence: float) -> str:
    """What a comparison of two contestants at one size means, as a sentence."""
    if pair["interval"] is None:
        return f"{pair['size']:,} rows: one run cannot distinguish `{pair['better']}` from `{pair['worse']}` (ratio {pair['ratio']:.3g})"
    low, high = pair["interval"]
    ratio = f"{pair['ratio']:.3g} ({low:.3g} to {high:.3g} at {confidence:.0%})"
    if pair["distinguishable"]:
        return f"{pair['size']:,} rows: the losses of `{pair['worse']}` are {ratio} times those of `{pair['better']}`"
    return f"{pair['size']:,} rows: `{pair['better']}` and `{pair['worse']}` do not differ significantly, ratio {ratio}"
