"""Honest measurement: a model and working solvers on the same rows, against certified truth."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..architectures import Operator, load_model, read_card
from ..physics import NAMED_POTENTIALS, CurvePotential, InputError
from ..physics.diagnostics import energy_drift, total_loss
from ..physics.ensembles import HORIZON
from .baselines import Baseline, default_baselines
from .config import EvaluationConfig
from .datasets import Split, read_split
from .generation import read_manifest
from .progress import track
from .provenance import code_version, write_json

EVALUATION_SCHEMA_VERSION = 1
METRICS = ("total_loss", "loss_q", "loss_p", "energy_drift")


@dataclass(frozen=True)
class Measurement:
    """Answers of one model or solver to every row of a split, and what they are worth. Arrays are (N, T) and (N,)."""

    q: np.ndarray
    p: np.ndarray
    metrics: dict[str, np.ndarray]
    seconds_per_trajectory: float


def evaluate(
    model_folder: Path, dataset: Path, out: Path, split_name: str = "test", settings: EvaluationConfig | None = None
) -> dict[str, Any]:
    """Measure a model folder on a split and on the named potentials; writes evaluation.json and report.html to `out`.

    Raises
    ------
    InputError
        For an unreadable model or dataset, an empty split, or a model that reads another number of sensors.
    """
    settings = settings or EvaluationConfig()
    model, card = load_model(model_folder), read_card(model_folder)
    manifest = read_manifest(dataset)
    split = read_split(dataset, split_name, settings.max_rows)
    if split.potential.shape[1] != model.config.num_sensors:
        raise InputError(f"model reads {model.config.num_sensors} sensors; dataset {str(dataset)!r} has {split.potential.shape[1]}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from None
    baselines = default_baselines(settings.solver_steps)
    exact = [CurvePotential.from_control_points(*polygon) for polygon in split.control]
    measurements: dict[str, Measurement] = {}
    with track("evaluate", len(baselines) + 2) as progress:
        measurements["model"] = _measure(split, exact, lambda: predict_split(model, split, settings.batch_size))
        progress.advance(note="model")
        for baseline in baselines:
            measurements[baseline.name] = _measure(split, exact, lambda baseline=baseline: _solve_split(baseline, split, exact))
            progress.advance(note=baseline.name)
        named = measure_named(model, baselines)
        progress.advance(note="named potentials")

    result = {
        "schema_version": EVALUATION_SCHEMA_VERSION,
        "model": {
            "folder": str(model_folder),
            "weights_sha256": card["weights_sha256"],
            "num_parameters": card["num_parameters"],
            **card["architecture"],
        },
        "dataset": {
            "folder": str(dataset),
            "hash": manifest["dataset_hash"],
            "split": split_name,
            "rows": len(split),
            "preset": manifest["preset"],
        },
        "metrics": _summaries(measurements["model"], settings),
        "baselines": {
            baseline.name: _summaries(measurements[baseline.name], settings)
            | {"seconds_per_trajectory": measurements[baseline.name].seconds_per_trajectory, "track": baseline.track}
            for baseline in baselines
        },
        "named": named,
        "timing": _timing(model, split, measurements["model"], settings),
        "truth_floor": truth_floor(split),
        "warnings": _warnings(card, manifest, measurements["model"]),
        "code_version": code_version(),
    }
    write_json(out / "evaluation.json", result)
    from .report import write_report

    write_report(out, result, split, measurements, exact)
    return result


def predict_split(model: Operator, split: Split, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The model's q, p (N, T) on every row, in float64."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(split), batch_size):
            rows = slice(start, start + batch_size)
            inputs = (torch.tensor(a[rows], dtype=torch.float32) for a in (split.potential, split.times, split.initial))
            output = model(*inputs)
            parts.append((output.q.double().numpy(), output.p.double().numpy()))
    q, p = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return q, p


def _solve_split(baseline: Baseline, split: Split, exact: list[CurvePotential]) -> tuple[np.ndarray, np.ndarray]:
    answers = [
        baseline.solve(exact[i], split.potential[i], split.initial[i, 0], split.initial[i, 1], split.times[i].astype(np.float64))
        for i in range(len(split))
    ]
    q, p = (np.stack(arrays) for arrays in zip(*answers, strict=True))
    return q, p


def _measure(split: Split, exact: list[CurvePotential], answer: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Measurement:
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


def _summaries(measurement: Measurement, settings: EvaluationConfig) -> dict[str, Any]:
    return {name: summarise(measurement.metrics[name], settings.bootstrap, settings.seed) for name in METRICS}


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


def _timing(model: Operator, split: Split, measurement: Measurement, settings: EvaluationConfig) -> dict[str, Any]:
    single = Split(**{name: getattr(split, name)[:1] for name in Split.__dataclass_fields__})
    predict_split(model, single, 1)
    started = time.perf_counter()
    repeats = 10
    for _ in range(repeats):
        predict_split(model, single, 1)
    return {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "batch_size": settings.batch_size,
        "model_seconds_per_trajectory": measurement.seconds_per_trajectory,
        "model_seconds_single": (time.perf_counter() - started) / repeats,
    }


def _warnings(card: dict[str, Any], manifest: dict[str, Any], measurement: Measurement) -> list[str]:
    warnings = []
    trained_on = card["provenance"].get("preset")
    if trained_on != manifest["preset"]:
        warnings.append(f"the model was trained on preset {trained_on!r} and is measured on {manifest['preset']!r}")
    broken = int(np.sum(~np.isfinite(measurement.metrics["total_loss"])))
    if broken:
        warnings.append(f"the model's answer is not finite on {broken} of {measurement.q.shape[0]} rows; its figures are withheld")
    return warnings
