"""Honest measurement: a model and working solvers on the same rows, against certified truth."""

import time
from pathlib import Path
from typing import Any

import torch

from ..architectures import Operator, load_model, read_card
from ..physics import CurvePotential, InputError
from .baselines import default_baselines
from .config import EvaluationConfig
from .datasets import Split, read_split
from .generation import read_manifest
from .measurement import Measurement, count_broken, measure, measure_named, predict_split, solve_split, summarise, truth_floor
from .progress import track
from .provenance import code_version, write_json
from .report import write_report

EVALUATION_SCHEMA_VERSION = 1


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
        measurements["model"] = measure(split, exact, lambda: predict_split(model, split, settings.batch_size))
        progress.advance(note="model")
        for baseline in baselines:
            measurements[baseline.name] = measure(split, exact, lambda baseline=baseline: solve_split(baseline, split, exact))
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
        "metrics": _summarise_metrics(measurements["model"], settings),
        "baselines": {
            baseline.name: _summarise_metrics(measurements[baseline.name], settings)
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
    write_report(out, result, split, measurements, exact)
    return result


def _summarise_metrics(measurement: Measurement, settings: EvaluationConfig) -> dict[str, Any]:
    return {name: summarise(measurement.metrics[name], settings.bootstrap, settings.seed) for name in measurement.metrics}


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
    broken = count_broken(measurement)
    if broken:
        warnings.append(f"the model's answer is not finite on {broken} of {measurement.q.shape[0]} rows; its figures are withheld")
    return warnings
