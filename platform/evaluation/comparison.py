"""`compare`: several models in one table, on the same problems, with the baselines that see the same sensors."""

from collections import Counter
from typing import Any

from ...architectures import TrainedFor, load_model, read_card
from ...architectures.card import parse_trained_for
from ...physics import InputError
from ...physics.files import write_json
from ...physics.systems import Predictions, Problems, with_role
from ..config import DataConfig, EvaluationConfig
from ..data.datasets import read_split
from ..data.manifest import read_config, read_manifest
from ..data.schema import is_imported
from ..folder_lock import holds_folder
from ..outputs import check_results_folder
from ..progress import track
from ..provenance import code_version
from ..storage import Location
from .evaluation import UNCERTIFIED, describe_dataset, other_ensemble
from .metrics import METRICS, count_broken, measure, summarise
from .predictions import predict
from .problems import read_problems
from .report import write_comparison
from .studies.sensors import draw_sensors, measure_sensors

COMPARISON_SCHEMA_VERSION = 2
RESULT_FILE = "comparison.json"


@holds_folder("out", "--out")
def compare(
    folders: list[Location], dataset: Location, out: Location, split_name: str = "test", settings: EvaluationConfig | None = None
) -> dict[str, Any]:
    """Measure several model folders on one split; writes comparison.json and comparison.html to `out`.

    A model that reads another number of sensors than the dataset has is given readings of the exact Hamiltonians.

    Raises
    ------
    InputError
        For fewer than two models, an unreadable model or dataset, a model of another system, an empty split, or an `out` that
        cannot be written.
    """
    settings = settings or EvaluationConfig()
    if len(folders) < 2:
        raise InputError(f"{len(folders)} models were given; compare needs at least 2")
    names = _name_all(folders)
    models = {name: load_model(folder) for name, folder in zip(names, folders, strict=True)}
    cards = {name: read_card(folder) for name, folder in zip(names, folders, strict=True)}
    trained_for = {name: parse_trained_for(cards[name], folder) for name, folder in zip(names, folders, strict=True)}
    manifest = read_manifest(dataset)
    config = read_config(manifest)
    _check_system(trained_for, config)
    problems = read_problems(read_split(dataset, split_name, settings.max_rows), config)
    check_results_folder(out, RESULT_FILE, [RESULT_FILE, "comparison.html", "sensors.png", "sensors.pdf"])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from None
    baselines = with_role(problems.system.baselines(settings.solver_steps), "reconstructions")
    levels = len(settings.sensor_counts or problems.system.sensor_counts) * (1 + len(settings.noise_levels))
    entries, not_measured = {}, {}
    warnings = [UNCERTIFIED] if is_imported(config) else []
    with track("compare", len(models) + len(baselines) + levels) as progress:
        for name, model in models.items():
            sensors = trained_for[name].sensors
            seen = problems if sensors == problems.sensors else problems.at_sensors(sensors)
            entries[name] = _entry(seen, predict(model, seen, settings.batch_size), settings, cards[name]["num_parameters"])
            warnings += _warnings(name, trained_for[name], config, entries[name], seen is not problems)
            progress.advance(note=name)
        for baseline in baselines:
            if (reason := baseline.why_not(problems)) is None:
                entries[baseline.name] = _entry(problems, baseline.solve(problems), settings, None)
            else:
                not_measured[baseline.name] = reason
            progress.advance(note=baseline.name)
        readers = {name: (model, trained_for[name].sensors) for name, model in models.items()}
        study = measure_sensors(readers, baselines, problems.take(slice(settings.study_rows)), settings, progress.advance)
    result = {
        "schema_version": COMPARISON_SCHEMA_VERSION,
        "models": {
            name: {"folder": str(folder), "weights_sha256": cards[name]["weights_sha256"]}
            for name, folder in zip(names, folders, strict=True)
        },
        "dataset": describe_dataset(dataset, manifest["dataset_hash"], config, split_name, len(problems)),
        "entries": entries,
        "not_measured": not_measured,
        "sensors": study,
        "truth_floor": problems.floor,
        "warnings": warnings,
        "command": f"neural-hamilton compare {' '.join(map(str, folders))} --dataset {dataset} --split {split_name} --out {out}",
        "code_version": code_version(),
    }
    write_json(out / RESULT_FILE, result)
    write_comparison(out, result, lambda: draw_sensors(study, list(models)))
    return result


def _name_all(folders: list[Location]) -> list[str]:
    """The last parts of the paths that tell models apart: a run's `model` goes by the name of its run."""
    short = [folder.parent.name if folder.name == "model" and folder.parent.name else folder.name for folder in folders]
    counts = Counter(short)
    return [name if counts[name] == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]


def _check_system(trained_for: dict[str, TrainedFor], config: DataConfig) -> None:
    for name, task in trained_for.items():
        if task.system != config.system:
            raise InputError(f"{name} was trained for system {task.system!r}; the dataset has system {config.system!r}")


def _entry(problems: Problems, predictions: Predictions, settings: EvaluationConfig, num_parameters: int | None) -> dict[str, Any]:
    metrics = measure(problems, predictions.q, predictions.p)
    summaries = {name: summarise(metrics[name], settings.bootstrap, settings.seed) for name in METRICS}
    return summaries | {
        "not_finite": count_broken(metrics["total_loss"]),
        "seconds_per_trajectory": predictions.seconds_each,
        "sensors": list(problems.sensors),
        "num_parameters": num_parameters,
    }


def _warnings(name: str, trained_for: TrainedFor, config: DataConfig, entry: dict[str, Any], other_sensors: bool) -> list[str]:
    words = other_ensemble(name, trained_for, config)
    warnings = [words] if words else []
    if other_sensors:
        count = " × ".join(map(str, entry["sensors"]))
        source = "V interpolated between the sensors" if is_imported(config) else "the exact Hamiltonians"
        warnings.append(f"{name} reads {count} sensors, taken from {source} and without the dataset's noise")
    if entry["not_finite"]:
        warnings.append(f"{name} has {entry['not_finite']} predictions that are not finite; its figures are withheld")
    return warnings
