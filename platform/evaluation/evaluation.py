"""`evaluate`: all measurements of one model, in one folder."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ...architectures import TrainedFor, load_model, parse_architecture, read_card, record_calibration
from ...architectures.card import parse_trained_for
from ...physics import InputError
from ...physics.files import atomic_file, write_json
from ...physics.systems import Baseline, Predictions, Problems, with_role
from ..config import DataConfig, EvaluationConfig
from ..data.datasets import Split, read_split
from ..data.manifest import read_config, read_manifest
from ..data.schema import is_imported
from ..data.shards import rows_hashes
from ..folder_lock import holds_folder
from ..outputs import check_results_folder
from ..progress import Progress, track
from ..provenance import code_version
from ..storage import Location, Url
from .benchmark import find_task, read_scores
from .calibration import calibrate, score_predictions
from .groups import measure_groups
from .metrics import METRICS, count_broken, measure, summarise
from .model_card import read_dataset_sizes, write_model_card
from .named import measure_cases
from .predictions import predict
from .problems import read_problems
from .quadrature import built_in_baselines
from .report import FIGURES, write_report
from .studies import get_study, study_names
from .study import Subject

EVALUATION_SCHEMA_VERSION = 3
RESULT_FILE, TRAJECTORIES_FILE = "evaluation.json", "trajectories.parquet"


@holds_folder("out", "--out")
def evaluate(
    model_folder: Location,
    dataset: Location,
    out: Location,
    split_name: str = "test",
    settings: EvaluationConfig | None = None,
    *,
    record: bool = False,
    scaling: Location | None = None,
) -> dict[str, Any]:
    """Measure a model folder; writes evaluation.json, trajectories.parquet, report.html and its figures to `out`.

    With `record`, the calibration goes to the model's model.json, where serving reads its threshold, and README.md becomes
    the model's card, which with a dataset-size study `scaling` also shows the losses of its architecture against training rows.

    Raises
    ------
    InputError
        For an unreadable model or dataset, an empty split, a model of another system or number of sensors, an `out` that
        cannot be written or holds something else, a model to be recorded whose folder does not record how it was trained, or a
        study `scaling` without this architecture or without `record`.
    """
    settings = settings or EvaluationConfig()
    model, card, manifest = load_model(model_folder), read_card(model_folder), read_manifest(dataset)
    config, trained_for = read_config(manifest), parse_trained_for(card, model_folder)
    _check_fits(trained_for, config, dataset)
    split = read_split(dataset, split_name, settings.max_rows)
    if record and not {"rows_drawn", "seconds", "config"} <= set(card["provenance"]):
        raise InputError(f"model {str(model_folder)!r} does not record how it was trained; --record needs a model that `train` made")
    if record and isinstance(model_folder, Url):
        raise InputError(f"--record writes to the model, which is {str(model_folder)!r}; give a model folder on a disk, or leave it out")
    if scaling and not record:
        raise InputError("--scaling is for the model's card; add --record")
    study = read_dataset_sizes(scaling, card["architecture"]["name"]) if scaling else None
    figures = [f"{name}.{kind}" for name in (*FIGURES, *study_names()) for kind in ("png", "pdf")]
    check_results_folder(out, RESULT_FILE, [RESULT_FILE, TRAJECTORIES_FILE, "report.html", *figures])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from None
    problems = read_problems(split, config)
    baselines = [*problems.system.baselines(settings.solver_steps), *built_in_baselines(model, settings.batch_size)]
    subject = Subject(model, card, trained_for, problems.take(slice(settings.study_rows)), baselines, settings)
    with track("evaluate", len(with_role(baselines, "table")) + 2 + len(settings.studies)) as progress:
        predictions, not_measured = _predict_all(subject, problems, progress)
        metrics = {name: measure(problems, x.q, x.p) for name, x in predictions.items()}
        studies = _run_studies(subject, progress)
    model_prediction = predictions["model"]
    scores = score_predictions(problems, model_prediction.q, model_prediction.p)
    calibration = calibrate(problems, scores, model_prediction.q, model_prediction.p, settings.tolerated_error, settings.risk)
    result = {
        "schema_version": EVALUATION_SCHEMA_VERSION,
        "model": describe_model(model_folder, card, trained_for),
        "dataset": describe_dataset(dataset, manifest["dataset_hash"], config, split_name, len(problems)),
        "metrics": _summaries(metrics["model"], settings),
        "baselines": {
            baseline.name: _entry(baseline, predictions[baseline.name], metrics[baseline.name], settings)
            for baseline in with_role(baselines, "table")
            if baseline.name in predictions
        },
        "not_measured": not_measured,
        "groups": _groups(problems, metrics, settings),
        "calibration": calibration,
        **studies,
        "timing": _timing(subject, model_prediction),
        "truth_floor": problems.floor,
        "warnings": _warnings(card, trained_for, config, split_name, metrics["model"]["total_loss"]),
        "settings": settings.model_dump(mode="json"),
        "code_version": code_version(),
    }
    task = find_task(split)
    result["benchmark"] = read_scores(task, result) if task else None
    write_json(out / RESULT_FILE, result)  # first: it shows whose the other files are
    _write_trajectories(out / TRAJECTORIES_FILE, split, problems, metrics)
    write_report(out, result, problems, baselines, predictions, metrics)
    if record and isinstance(model_folder, Path):
        record_calibration(model_folder, calibration | {"dataset_hash": manifest["dataset_hash"], "rows": len(problems)})
        write_model_card(model_folder, subject, result, config, study)
    return result


def describe_model(folder: Location, card: dict[str, Any], trained_for: TrainedFor) -> dict[str, Any]:
    """What a result records about the model it is about."""
    architecture = parse_architecture(card["architecture"])
    return {
        "folder": str(folder),
        "weights_sha256": card["weights_sha256"],
        "num_parameters": card["num_parameters"],
        "trained_for": trained_for.model_dump(mode="json"),
        "built_in": architecture.built_in,
        "window": getattr(architecture, "window", None),
        "validation_loss": {"first": card["provenance"].get("first_validation_loss"), "best": _best_validation_loss(card)},
        **card["architecture"],
    }


def _best_validation_loss(card: dict[str, Any]) -> float | None:
    """None for a model that was saved without a record of its training."""
    return card["provenance"].get("metrics", {}).get("validation_loss")


def describe_dataset(folder: Location, dataset_hash: str, config: DataConfig, split: str, rows: int) -> dict[str, Any]:
    """What a result records about the dataset it was measured on."""
    return {
        "folder": str(folder),
        "hash": dataset_hash,
        "split": split,
        "rows": rows,
        "system": config.system,
        "ensemble": config.model_dump(mode="json")["ensemble"],
        "noise": config.noise,
    }


def _check_fits(trained_for: TrainedFor, config: DataConfig, dataset: Location) -> None:
    """Refuse a dataset that the model cannot read."""
    if trained_for.system != config.system:
        raise InputError(f"model was trained for system {trained_for.system!r}; dataset {str(dataset)!r} has system {config.system!r}")
    if trained_for.sensors != config.sensor_shape:
        model_sensors, own = (" × ".join(map(str, shape)) for shape in (trained_for.sensors, config.sensor_shape))
        raise InputError(f"model reads {model_sensors} sensors; dataset {str(dataset)!r} has {own}")


def _predict_all(subject: Subject, problems: Problems, progress: Progress) -> tuple[dict[str, Predictions], dict[str, str]]:
    """Predictions of the model and of every baseline of the table, and the reason why a baseline has none."""
    predictions, not_measured = {"model": subject.predict(problems)}, {}
    progress.advance(note="model")
    for baseline in with_role(subject.baselines, "table"):
        if (reason := baseline.why_not(problems)) is None:
            predictions[baseline.name] = baseline.solve(problems)
        else:
            not_measured[baseline.name] = reason
        progress.advance(note=baseline.name)
    return predictions, not_measured


def _run_studies(subject: Subject, progress: Progress) -> dict[str, Any]:
    """The entries of all studies, None for one that is not asked for; and of the textbook cases, which always are."""
    results: dict[str, Any] = {"named": measure_cases(subject, "textbook")} | dict.fromkeys(study_names())
    progress.advance(note="textbook potentials")
    for name in subject.settings.studies:
        results[name] = get_study(name).run(subject)
        progress.advance(note=name)
    return results


def _entry(baseline: Baseline, predictions: Predictions, metrics: dict[str, np.ndarray], settings: EvaluationConfig) -> dict[str, Any]:
    return _summaries(metrics, settings) | {
        "seconds_per_trajectory": predictions.seconds_each,
        "track": baseline.track,
        "reconstruction": baseline.reconstruction.name if baseline.reconstruction else None,
        "not_finite": count_broken(metrics["total_loss"]),
    }


def _summaries(metrics: dict[str, np.ndarray], settings: EvaluationConfig) -> dict[str, Any]:
    return {name: summarise(metrics[name], settings.bootstrap, settings.seed) for name in METRICS}


def _groups(problems: Problems, metrics: dict[str, dict[str, np.ndarray]], settings: EvaluationConfig) -> dict[str, dict[str, Any]]:
    """Total loss of the model and of every baseline in the system's groups of rows."""

    def measure_rows(rows: np.ndarray) -> dict[str, Any]:
        return {name: summarise(values["total_loss"][rows], settings.bootstrap, settings.seed) for name, values in metrics.items()}

    return measure_groups(problems, measure_rows)


def _timing(subject: Subject, prediction: Predictions) -> dict[str, Any]:
    single = subject.problems.take(slice(1))
    predict(subject.model, single, 1)
    started, repeats = time.perf_counter(), 10
    for _ in range(repeats):
        predict(subject.model, single, 1)
    return {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "batch_size": subject.settings.batch_size,
        "model_seconds_per_trajectory": prediction.seconds_each,
        "model_seconds_single": (time.perf_counter() - started) / repeats,
    }


def _warnings(card: dict[str, Any], trained_for: TrainedFor, config: DataConfig, split_name: str, losses: np.ndarray) -> list[str]:
    warnings = []
    same_rows = card["provenance"].get("rows_config_hash") in rows_hashes(config)
    if same_rows and split_name != "test":
        warnings.append(f"the model was made with the rows of split {split_name!r} of this dataset; only 'test' shows what it has learnt")
    if is_imported(config):
        warnings.append(UNCERTIFIED)
    if (words := other_ensemble("the model", trained_for, config)) is not None:
        warnings.append(words)
    broken = count_broken(losses)
    if broken:
        warnings.append(f"the model's prediction is not finite on {broken} of {losses.size} rows; its figures are withheld")
    return warnings


UNCERTIFIED = (
    "the rows were imported: they carry no certificate, so losses may be those of the rows, and energies are those of V interpolated "
    "between the sensors"
)


def other_ensemble(name: str, trained_for: TrainedFor, config: DataConfig) -> str | None:
    """A warning where a model was trained on another ensemble than it is measured on."""
    trained_on, measured_on = trained_for.ensemble["name"], config.distribution.name
    if trained_on == measured_on:
        return None
    return f"{name} was trained on ensemble {trained_on!r} and is measured on {measured_on!r}"


def _write_trajectories(path: Location, split: Split, problems: Problems, metrics: dict[str, dict[str, np.ndarray]]) -> None:
    """One line per trajectory: the system's own scalars, the model's metrics and every baseline's total loss."""
    scalars = [column.name for column in problems.system.columns if column.kind != "list" and column.name in problems.columns]
    columns = {"trajectory_id": split.trajectory_id} | {name: problems.columns[name] for name in scalars} | metrics["model"]
    columns |= {f"total_loss_{name}": values["total_loss"] for name, values in metrics.items() if name != "model"}
    with atomic_file(path) as stream:
        pq.write_table(pa.table(columns), stream)
