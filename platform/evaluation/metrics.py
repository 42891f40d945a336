"""What answers are worth: predictions and solutions of a split, and their distance from the certified truth."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..architectures import Operator
from ..physics import NAMED_POTENTIALS, CurvePotential
from ..physics.diagnostics import energy_drift, total_loss
from ..physics.ensembles import HORIZON
from .baselines import Baseline
from .datasets import Split


@dataclass(frozen=True)
class Measurement:
    """Answers of one model or solver to every row of a split, and what they are worth. Arrays are (N, T) and (N,)."""

    q: np.ndarray
    p: np.ndarray
    metrics: dict[str, np.ndarray]
    seconds_per_trajectory: float


def predict_split(model: Operator, split: Split, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The model's q, p (N, T) on every row, in float64."""
    parts, distinct = [], split.distinct_times
    with torch.inference_mode():
        for start in range(0, len(split), batch_size):
            rows = slice(start, start + batch_size)
            times = distinct if len(distinct) == 1 else distinct[rows]
            inputs = (torch.tensor(a, dtype=torch.float32) for a in (split.potential[rows], times, split.initial[rows]))
            output = model(*inputs)
            parts.append((output.q.double().numpy(), output.p.double().numpy()))
    q, p = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return q, p


def solve_split(baseline: Baseline, split: Split, exact: list[CurvePotential]) -> tuple[np.ndarray, np.ndarray]:
    answers = [
        baseline.solve(exact[i], split.potential[i], split.initial[i, 0], split.initial[i, 1], split.times[i].astype(np.float64))
        for i in range(len(split))
    ]
    q, p = (np.stack(arrays) for arrays in zip(*answers, strict=True))
    return q, p


def measure(split: Split, exact: list[CurvePotential], answer: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Measurement:
    started = time.perf_counter()
    q, p = answer()
    seconds = (time.perf_counter() - started) / len(split)
    true_q, true_p = split.q.astype(np.float64), split.p.astype(np.float64)
    values = np.stack([potential.value(row) for potential, row in zip(exact, q, strict=True)])
    lowest = np.array([potential.extrema()[0] for potential in exact])
    metrics = {
        "total_loss": total_loss(q, p, true_q, true_p),
        "loss_q": np.mean((q - true_q) ** 2, axis=1),
        "loss_p": np.mean((p - true_p) ** 2, axis=1),
        "energy_drift": energy_drift(values, p, split.energy, lowest),
    }
    return Measurement(q, p, metrics, seconds)


def count_broken(measurement: Measurement) -> int:
    """Rows whose answer is not finite."""
    return int(np.sum(~np.isfinite(measurement.metrics["total_loss"])))


def summarise(values: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """median, mean, p95, p99, max of (N,), with 95% bootstrap intervals of median and mean; None where not finite."""
    if not np.all(np.isfinite(values)):
        return dict.fromkeys(("median", "mean", "p95", "p99", "max", "median_interval", "mean_interval"))
    rng = np.random.default_rng(seed)
    medians, means = np.empty(resamples), np.empty(resamples)
    for i in range(resamples):
        sample = values[rng.integers(values.size, size=values.size)]
        medians[i], means[i] = np.median(sample), sample.mean()
    return {
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "p95": float(np.quantile(values, 0.95)),
        "p99": float(np.quantile(values, 0.99)),
        "max": float(values.max()),
        "median_interval": [float(x) for x in np.quantile(medians, [0.025, 0.975])],
        "mean_interval": [float(x) for x in np.quantile(means, [0.025, 0.975])],
    }


def measure_named(model: Operator, baselines: list[Baseline]) -> dict[str, dict[str, float]]:
    """Total loss on each textbook potential from (0, 0), for the model and every baseline, at 100 uniform times."""
    times = np.linspace(0.0, HORIZON, 100)
    results = {}
    for name, potential in NAMED_POTENTIALS.items():
        sensors = potential.value(np.linspace(0.0, 1.0, model.config.num_sensors))
        true_q, true_p = potential.truth(times)
        with torch.inference_mode():
            inputs = (torch.tensor(a[None], dtype=torch.float32) for a in (sensors, times, np.zeros(2)))
            output = model(*inputs)
        answers = {"model": (output.q[0].double().numpy(), output.p[0].double().numpy())}
        for baseline in baselines:
            answers[baseline.name] = baseline.solve(potential, sensors, 0.0, 0.0, times)
        losses = {solver: float(total_loss(q, p, true_q, true_p)) for solver, (q, p) in answers.items()}
        results[name] = {solver: loss if np.isfinite(loss) else None for solver, loss in losses.items()}
    return results


def truth_floor(split: Split) -> float:
    """The mean total loss that exact answers could be charged with: integration error and rounding of the labels.

    A loss below this says nothing about the model.
    """
    unit = float(np.finfo(split.q.dtype).eps) / 2
    error = split.integration_error[:, None]
    squares = [(error + unit * np.abs(states.astype(np.float64))) ** 2 for states in (split.q, split.p)]
    return float(0.5 * (squares[0] + squares[1]).mean())
