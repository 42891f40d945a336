"""`evaluate`: everything there is to know about one model, in one folder."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ...architectures import Operator, load_model, read_card, record_calibration
from ...physics import InputError
from ...physics.files import atomic_file, write_json
from ..config import STUDIES, EvaluationConfig
from ..data.datasets import Split, read_split
from ..data.manifest import read_config, read_manifest
from ..data.shards import rows_hashes
from ..progress import Progress, track
from ..provenance import code_version
from .answers import Answers, predict, read_inputs, solve
from .calibration import calibrate, score_answers
from .metrics import METRICS, count_broken, group_by_separatrix, group_by_stratum, measure, summarise
from .model_card import write_model_card
from .problems import Problems
from .report import write_report
from .solvers import Baseline, Reconstruction, default_baselines, reconstruct
from .studies import work_precision
from .studies.families import measure_ensembles, measure_rough, measure_textbook
from .studies.rollouts import measure_horizons
from .studies.sensors import study_sensors
from .studies.symplecticity import measure_maps

EVALUATION_SCHEMA_VERSION = 2
TRAJECTORIES_FILE = "trajectories.parquet"


def evaluate(
    model_folder: Path,
    dataset: Path,
    out: Path,
    split_name: str = "test",
    settings: EvaluationConfig | None = None,
    *,
    record: bool = False,
) -> dict[str, Any]:
    """Measure a model folder; writes evaluation.json, trajectories.parquet, report.html and its figures to `out`.

    With `record`, the model folder learns of it: the calibration goes to model.json, where serving reads its threshold, and
    README.md becomes the model's card.

    Raises
    ------
    InputError
        For an unreadable model or dataset, an empty split, a model that reads another number of sensors, an `out` that
        cannot be written, or a model to be recorded that does not say how it was trained.
    """
    settings = settings or EvaluationConfig()
    model, card, manifest = load_model(model_folder), read_card(model_folder), read_manifest(dataset)
    split = read_split(dataset, split_name, settings.max_rows)
    if split.potential.shape[1] != model.task.num_sensors:
        raise InputError(f"model reads {model.task.num_sensors} sensors; dataset {str(dataset)!r} has {split.potential.shape[1]}")
    if record and not {"rows_drawn", "seconds", "config"} <= set(card["provenance"]):
        raise InputError(f"model {str(model_folder)!r} does not say how it was trained; --record needs a model that `train` made")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from None
    problems = Problems.of_split(split, manifest)
    baselines = default_baselines(settings.solver_steps)
    with track("evaluate", len(baselines) + 1 + _count_studies(settings)) as progress:
        answers = _answer_all(model, baselines, problems, settings, progress)
        metrics = {name: measure(problems, answer.q, answer.p) for name, answer in answers.items()}
        studies = _Studies(model, card, problems.take(slice(settings.study_rows)), baselines, settings, progress).run()
    losses, inputs = metrics["model"]["total_loss"], answers.get("inputs")
    calibration = _calibrate(problems, answers["model"], settings)
    result = {
        "schema_version": EVALUATION_SCHEMA_VERSION,
        "model": describe_model(model_folder, card),
        "dataset": {
            "folder": str(dataset),
            "hash": manifest["dataset_hash"],
            "split": split_name,
            "rows": len(problems),
            "preset": read_config(manifest).distribution.name,
            "noise": problems.noise,
        },
        "metrics": _summaries(metrics["model"], settings),
        "inputs": _summaries(metrics["inputs"], settings) | {"seconds_per_trajectory": inputs.seconds_each} if inputs else None,
        "baselines": {
            baseline.name: _summaries(metrics[baseline.name], settings)
            | {
                "seconds_per_trajectory": answers[baseline.name].seconds_each,
                "track": baseline.track,
                "potential": baseline.potential,
                "not_finite": count_broken(metrics[baseline.name]["total_loss"]),
            }
            for baseline in baselines
        },
        "by_stratum": _by_group(group_by_stratum(problems), metrics, settings),
        "by_separatrix": _by_group(group_by_separatrix(problems), metrics, settings),
        "calibration": calibration,
        **studies,
        "timing": _timing(model, problems, answers["model"], settings),
        "truth_floor": problems.floor,
        "warnings": _warnings(card, manifest, split_name, losses),
        "settings": settings.model_dump(mode="json"),
        "code_version": code_version(),
    }
    _write_trajectories(out / TRAJECTORIES_FILE, split, metrics)
    write_json(out / "evaluation.json", result)
    write_report(out, result, problems, answers, metrics)
    if record:
        record_calibration(model_folder, calibration | {"dataset_hash": manifest["dataset_hash"], "rows": len(problems)})
        write_model_card(model_folder, card, result, manifest["config"])
    return result


def describe_model(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """What a result says about the model it is about."""
    return {
        "folder": str(folder),
        "weights_sha256": card["weights_sha256"],
        "num_parameters": card["num_parameters"],
        "num_sensors": math.prod(card["trained_for"]["sensors"]),
        **card["architecture"],
    }


def takes_any_start(card: dict[str, Any]) -> bool:
    """Whether a model was trained on starts other than (0, 0)."""
    return card["trained_for"]["initial_state"] is None


def _answer_all(
    model: Operator, baselines: list[Baseline], problems: Problems, settings: EvaluationConfig, progress: Progress
) -> dict[str, Answers]:
    """Of the model, of what it is told, if it is told anything, and of every baseline."""
    answers = {"model": predict(model, problems, settings.batch_size)}
    if (inputs := read_inputs(model, problems, settings.batch_size)) is not None:
        answers["inputs"] = inputs
    progress.advance(note="model")
    rebuilt: dict[str, Reconstruction] = {}
    for baseline in baselines:
        if baseline.potential not in rebuilt:
            rebuilt[baseline.potential] = reconstruct(baseline.potential, problems)
        answers[baseline.name] = solve(baseline, rebuilt[baseline.potential], problems)
        progress.advance(note=baseline.name)
    return answers


class _Studies:
    """What is asked beside the split itself, on few rows; each method is a study and returns its entry of evaluation.json."""

    def __init__(
        self,
        model: Operator,
        card: dict[str, Any],
        problems: Problems,
        baselines: list[Baseline],
        settings: EvaluationConfig,
        progress: Progress,
    ) -> None:
        self._model, self._card, self._problems, self._settings, self._progress = model, card, problems, settings, progress
        self._preset = card["trained_for"]["ensemble"]["name"]
        self._baselines = baselines
        self._few = [b for b in baselines if b.name in {f"rk4-sensors-{settings.solver_steps[0]:g}", "dop853-cubic", "dop853-prior-fit"}]

    def run(self) -> dict[str, Any]:
        results: dict[str, Any] = dict.fromkeys(STUDIES)  # one that is not asked for is None
        results["named"] = measure_textbook(self._model, self._baselines, self._preset)
        self._progress.advance(note="textbook potentials")
        for name in self._settings.studies:
            results[name] = getattr(self, f"_{name}")()
            self._progress.advance(note=name)
        return results

    def _rough(self) -> dict[str, Any]:
        return measure_rough(self._model, self._baselines, self._preset)

    def _ensembles(self) -> dict[str, Any]:
        s = self._settings
        return measure_ensembles(self._model, self._few, self._preset, s.study_rows, s.bootstrap, s.seed, s.batch_size)

    def _sensors(self) -> list[dict[str, Any]]:
        s = self._settings
        return study_sensors(
            {"model": self._model}, self._problems, s.sensor_counts, s.noise_levels,
            resamples=s.bootstrap, seed=s.seed, batch_size=s.batch_size,
        )  # fmt: skip

    def _maps(self) -> dict[str, Any]:
        if not takes_any_start(self._card):
            return {"not_measured": "the model knows only the start (0, 0), and a map from one point has no derivative"}
        values, rows = measure_maps(self._model, self._problems)
        return {"rows": int(rows.size)} | {name: summarise(x, self._settings.bootstrap, self._settings.seed) for name, x in values.items()}

    def _horizons(self) -> dict[str, Any]:
        if not takes_any_start(self._card):
            return {"not_measured": "the model knows only the start (0, 0), so its windows cannot be chained"}
        verlet = Baseline("stormer-verlet-sensors-0.02", "stormer-verlet", "cubic", step=0.02)
        return measure_horizons(self._model, [*self._few, verlet], self._problems, self._settings.windows, self._settings.batch_size)

    def _work(self) -> dict[str, Any]:
        s = self._settings
        work = work_precision.study_work(self._model, self._problems, s.work_batches, s.batch_size)
        work |= work_precision.study_length(self._model, self._problems, takes_any_start(self._card), s.batch_size)
        work["break_even"] = work_precision.break_even(work, self._card, work_precision.measure_row_cost(self._preset))
        return work


def _count_studies(settings: EvaluationConfig) -> int:
    return 1 + len(settings.studies)


def _summaries(metrics: dict[str, np.ndarray], settings: EvaluationConfig) -> dict[str, Any]:
    return {name: summarise(metrics[name], settings.bootstrap, settings.seed) for name in METRICS}


def _by_group(
    groups: dict[str, np.ndarray], metrics: dict[str, dict[str, np.ndarray]], settings: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """Total loss of the model and of every baseline in groups of rows; empty groups are left out."""
    return {
        group: {"rows": int(rows.sum())}
        | {solver: summarise(values["total_loss"][rows], settings.bootstrap, settings.seed) for solver, values in metrics.items()}
        for group, rows in groups.items()
        if rows.any()
    }


def _calibrate(problems: Problems, answer: Answers, settings: EvaluationConfig) -> dict[str, Any]:
    splines = reconstruct("cubic", problems).curves
    scores = score_answers(problems, splines, answer.q, answer.p)
    return calibrate(problems, scores, answer.q, answer.p, settings.tolerated_error, settings.risk)


def _timing(model: Operator, problems: Problems, answer: Answers, settings: EvaluationConfig) -> dict[str, Any]:
    single = problems.take(slice(1))
    predict(model, single, 1)
    started, repeats = time.perf_counter(), 10
    for _ in range(repeats):
        predict(model, single, 1)
    return {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "batch_size": settings.batch_size,
        "model_seconds_per_trajectory": answer.seconds_each,
        "model_seconds_single": (time.perf_counter() - started) / repeats,
    }


def _warnings(card: dict[str, Any], manifest: dict[str, Any], split_name: str, losses: np.ndarray) -> list[str]:
    warnings = []
    trained_on = card["trained_for"]["ensemble"]["name"]
    same_rows = card["provenance"].get("rows_config_hash") in rows_hashes(read_config(manifest))
    if same_rows and split_name != "test":
        warnings.append(
            f"the model was made with the rows of split {split_name!r} of this very stream; only 'test' tells what it has learnt"
        )
    measured_on = read_config(manifest).distribution.name
    if trained_on != measured_on:
        warnings.append(f"the model was trained on preset {trained_on!r} and is measured on {measured_on!r}")
    broken = count_broken(losses)
    if broken:
        warnings.append(f"the model's answer is not finite on {broken} of {losses.size} rows; its figures are withheld")
    return warnings


def _write_trajectories(path: Path, split: Split, metrics: dict[str, dict[str, np.ndarray]]) -> None:
    """One line a trajectory: the model's metrics and every baseline's total loss."""
    columns = {"trajectory_id": split.trajectory_id, "stratum": split.own["stratum"], **metrics["model"]}
    columns |= {f"total_loss_{name}": values["total_loss"] for name, values in metrics.items() if name != "model"}
    with atomic_file(path) as stream:
        pq.write_table(pa.table(columns), stream)
