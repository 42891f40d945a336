"""How good the model of a cell is on the rows that all cells are measured on, and how cells compare.

A cell keeps the loss of every row, so that differences are of the same problems. Shapes: N rows, S seeds.
"""

import io
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from ..architectures import load_model
from ..physics.files import atomic_file, read_json, write_json
from ..platform.data.datasets import read_split
from ..platform.data.manifest import read_config, read_manifest
from ..platform.evaluation.metrics import measure
from ..platform.evaluation.predictions import predict
from ..platform.evaluation.problems import read_problems
from ..platform.storage import Location

CELL_FILE, LOSSES_FILE = "test.json", "losses.npy"
STATISTICS = ("median", "mean", "p99")
FIGURES = (*STATISTICS, "energy_drift", "seconds_per_trajectory", "rows")


def score_cell(
    run: Location, dataset: Location, split_name: str, max_rows: int | None, batch_size: int, about: dict[str, Any], *, start: int = 0
) -> None:
    """Measure the model of a run on at most `max_rows` rows of a split, from `start` on; leaves its files, the one that counts last."""
    manifest = read_manifest(dataset)
    available = manifest["counts"][split_name] - start
    split = read_split(dataset, split_name, min(max_rows or available, available), start=start)
    problems = read_problems(split, read_config(manifest))
    predicted = predict(load_model(run / "model"), problems, batch_size)
    metrics = measure(problems, predicted.q, predicted.p)
    losses = metrics["total_loss"]
    with atomic_file(run / LOSSES_FILE) as stream:
        np.save(stream, losses)
    figures = {
        "split": split_name,
        "rows": len(split),
        "median": float(np.median(losses)),
        "mean": float(np.mean(losses)),
        "p99": float(np.quantile(losses, 0.99)),
        "energy_drift": float(np.median(metrics["energy_drift"])),
        "seconds_per_trajectory": predicted.seconds_each,
    }
    write_json(run / CELL_FILE, figures | about)


def is_scored(run: Location) -> bool:
    return (run / CELL_FILE).exists()


def read_score(run: Location) -> dict[str, Any]:
    """The figures of a cell that has been measured."""
    return read_json(run / CELL_FILE)


def read_losses(run: Location) -> np.ndarray:
    """The loss of every row, (N,), of a cell that has been measured."""
    return np.load(io.BytesIO((run / LOSSES_FILE).read_bytes()))


def summarise_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the cells of one contestant and size: the middle of each figure over the seeds, and the range of the statistics."""
    keys = (*STATISTICS, "energy_drift", "seconds_per_trajectory", "seconds", "steps", "num_parameters")
    summary: dict[str, Any] = {key: float(np.median([row[key] for row in rows])) for key in keys}
    ranges = {f"{key}_range": [min(row[key] for row in rows), max(row[key] for row in rows)] for key in STATISTICS}
    return summary | ranges | {"seeds": len(rows)}


def compare_pairs(losses: dict[str, list[np.ndarray]], confidence: float) -> list[dict[str, Any]]:
    """Neighbours in the order of their losses, each with the ratio of their losses row by row.

    `losses` maps a contestant to the losses of its seeds, S arrays (N,). A seed of one is compared with the same seed of the other:
    the logarithm of the ratio is averaged over the rows, and the interval is Student's over the seeds. Two contestants are
    distinguishable where it excludes 1; with a single seed there is no interval, and they are not.
    """
    order = sorted(losses, key=lambda name: float(np.mean([np.log(each).mean() for each in losses[name]])))
    pairs = []
    for better, worse in pairwise(order):
        both = zip(losses[better], losses[worse], strict=False)
        logs = np.array([np.mean(np.log(b) - np.log(a)) for a, b in both])
        ratio, interval = float(np.exp(logs.mean())), None
        if logs.size > 1:
            half = stats.t.ppf(0.5 + confidence / 2, logs.size - 1) * logs.std(ddof=1) / np.sqrt(logs.size)
            interval = [float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))]
        distinguishable = interval is not None and interval[0] > 1.0
        pairs.append({"better": better, "worse": worse, "ratio": ratio, "interval": interval, "distinguishable": distinguishable})
    return pairs
