"""`compare`: several models in one table, on the same problems, with the solvers that see the same sensors."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...architectures import Operator, load_model, read_card
from ...physics import InputError
from ...physics.files import write_json
from ...physics.potentials.interpolants import INTERPOLANTS
from ..config import EvaluationConfig
from ..data.datasets import read_split
from ..data.manifest import read_config, read_manifest
from ..progress import track
from ..provenance import code_version
from .answers import Answers, predict, solve
from .metrics import METRICS, count_broken, measure, summarise
from .problems import Problems
from .report import write_comparison
from .solvers import ADAPTIVE_METHOD, PRIOR_FIT, TIGHT, Baseline, reconstruct
from .studies.sensors import study_sensors


def compare(
    folders: list[Path], dataset: Path, out: Path, split_name: str = "test", settings: EvaluationConfig | None = None
) -> dict[str, Any]:
    """Measure several model folders on one split; writes comparison.json and comparison.html to `out`.

    A model that reads another number of sensors than the dataset has is given readings of the exact potentials.

    Raises
    ------
    InputError
        For fewer than two models, an unreadable model or dataset, an empty split, or an `out` that cannot be written.
    """
    settings = settings or EvaluationConfig()
    if len(folders) < 2:
        raise InputError(f"{len(folders)} models were given; compare needs at least 2")
    names = _name_all(folders)
    models = {name: load_model(folder) for name, folder in zip(names, folders, strict=True)}
    cards = {name: read_card(folder) for name, folder in zip(names, folders, strict=True)}
    manifest = read_manifest(dataset)
    problems = Problems.of_split(read_split(dataset, split_name, settings.max_rows), manifest)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from None
    kinds = (*INTERPOLANTS, PRIOR_FIT)
    levels = len(settings.sensor_counts) * (1 + len(settings.noise_levels))
    with track("compare", len(models) + len(kinds) + levels) as progress:
        entries, warnings = {}, []
        for name, model in models.items():
            seen = _as_seen_by(model, problems)
            entries[name] = _entry(seen, predict(model, seen, settings.batch_size), settings) | {
                "sensors": model.task.num_sensors,
                "num_parameters": cards[name]["num_parameters"],
            }
            warnings += _warnings(name, cards[name], read_config(manifest).distribution.name, entries[name], seen is not problems)
            progress.advance(note=name)
        for kind in kinds:
            baseline = Baseline(f"dop853-{kind}", ADAPTIVE_METHOD, kind, tolerance=TIGHT)
            answer = solve(baseline, reconstruct(kind, problems), problems)
            entries[baseline.name] = _entry(problems, answer, settings) | {"sensors": problems.sensors.shape[1], "num_parameters": None}
            progress.advance(note=baseline.name)
        study = study_sensors(
            models, problems.take(slice(settings.study_rows)), settings.sensor_counts, settings.noise_levels,
            resamples=settings.bootstrap, seed=settings.seed, batch_size=settings.batch_size, advance=progress.advance,
        )  # fmt: skip
    result = {
        "schema_version": 1,
        "models": {
            name: {"folder": str(folder), "weights_sha256": cards[name]["weights_sha256"]}
            for name, folder in zip(names, folders, strict=True)
        },
        "dataset": {
            "folder": str(dataset),
            "hash": manifest["dataset_hash"],
            "split": split_name,
            "rows": len(problems),
            "ensemble": read_config(manifest).distribution.name,
        },
        "entries": entries,
        "sensors": study,
        "truth_floor": problems.floor,
        "warnings": warnings,
        "command": f"neural-hamilton compare {' '.join(map(str, folders))} --dataset {dataset} --split {split_name} --out {out}",
        "code_version": code_version(),
    }
    write_json(out / "comparison.json", result)
    write_comparison(out, result)
    return result


def _name_all(folders: list[Path]) -> list[str]:
    """The last parts of the paths that tell models apart: a run's `model` goes by the name of its run."""
    short = [folder.parent.name if folder.name == "model" and folder.parent.name else folder.name for folder in folders]
    counts = Counter(short)
    return [name if counts[name] == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]


def _as_seen_by(model: Operator, problems: Problems) -> Problems:
    count = model.task.num_sensors
    return problems if count == problems.sensors.shape[1] else problems.at_sensors(count)


def _entry(problems: Problems, answer: Answers, settings: EvaluationConfig) -> dict[str, Any]:
    metrics = measure(problems, answer.q, answer.p)
    summaries = {name: summarise(metrics[name], settings.bootstrap, settings.seed) for name in METRICS}
    return summaries | {"not_finite": count_broken(np.asarray(metrics["total_loss"])), "seconds_per_trajectory": answer.seconds_each}


def _warnings(name: str, card: dict[str, Any], preset: str, entry: dict[str, Any], other_sensors: bool) -> list[str]:
    trained_on = card["trained_for"]["ensemble"]["name"]
    warnings = [f"{name} was trained on preset {trained_on!r} and is measured on {preset!r}"] if trained_on != preset else []
    if other_sensors:
        warnings.append(f"{name} reads {entry['sensors']} sensors, taken from the exact potentials and without the dataset's noise")
    if entry["not_finite"]:
        warnings.append(f"{name} gave {entry['not_finite']} answers that are not finite; its figures are withheld")
    return warnings
