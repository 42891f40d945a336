"""Hyperparameter sweeps: Ray Tune runs the trials, Optuna proposes them, and poor ones are stopped early.

The output folder:

    study.json          what is swept: dataset, settings, space
    optuna.db           the record that survives: every trial proposed, what it reported and how it ended
    trials/00000/ ...   run folders, as `training` writes them
    leaderboard.csv, leaderboard.json, best.yaml    written whenever a trial ends
"""

import csv
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..physics import InputError
from ..physics.files import write_file, write_json
from ..platform.config import Config, load_config
from ..platform.data.manifest import read_manifest
from ..platform.progress import track
from ..platform.training.loop import train
from ..platform.training.run_folder import CONFIG_FILE, prepare_run
from .folders import claimed, resolve
from .samplers import make_sampler
from .search_spaces import Space, dump_space, parse_space
from .stopping import STOPPERS, Stopper
from .study import Study, open_storage
from .trials import attempt, read_failure, read_history, run_trials, scheduler, searcher

LEADERBOARD_FILE, BEST_FILE, TRIALS_FOLDER = "leaderboard", "best.yaml", "trials"
_STATES = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed"}
_RECORD_VERSION = 2  # of what the storage holds


def sweep(config: Config, dataset: Path, out: Path, num_trials: int) -> dict[str, Any]:
    """Search `sweep.space` for the smallest validation loss with `num_trials` trials; returns the result.

    Run again, it does what is missing up to `num_trials` and nothing that is done: trials that a stopped
    driver left half-way go on from their checkpoints. A trial that fails counts as done, and its reason is recorded. Where no trial
    could start with the proposed parameters, others are drawn. Each trial trains `sweep.epochs` epochs (`training.epochs` by default)
    unless `sweep.stopper` stops it, which compares it with all trials of the study, those before an interruption included. Its score
    is the loss of its best epoch, the one whose model is kept.

    Raises
    ------
    InputError
        For an unusable dataset, configuration or space, where `out` holds anything but this very sweep,
        or where every trial failed.
    """
    if num_trials < 1:
        raise InputError(f"--trials is {num_trials}; ask for at least 1")
    dataset, out = dataset.absolute(), out.absolute()
    space = parse_space(config)
    resolved = resolve(config, dataset)
    sampler = partial(make_sampler, config.sweep.sampler, space, num_trials, config.sweep.seed)
    sampler(0)  # refuses what it cannot search, before anything is written
    with claimed(out, _identity(resolved, dataset, space)):
        study = Study(open_storage(out), space, _stopper(resolved), sampler, partial(_why_not, resolved, dataset))
        missing = num_trials - len(study.ended())
        if missing > 0:
            _run(resolved, dataset, out, study, missing)
        return _conclude(resolved, dataset, out, _publish(resolved, out, study), max(missing, 0))


def leaderboard(study: Study) -> list[dict[str, Any]]:
    """One row for each trial that ended, best first: finished and stopped ones by validation loss, then failed ones."""
    rows = [_row(trial) for trial in study.ended()]
    return sorted(rows, key=lambda row: (math.inf if row["validation_loss"] is None else row["validation_loss"], row["trial"]))


def _identity(config: Config, dataset: Path, space: Space) -> dict[str, Any]:
    values = config.dump()
    keys = ("epochs", "sampler", "stopper", "grace_fraction", "grace_epochs", "seed")
    return {
        "kind": "sweep",
        "record_version": _RECORD_VERSION,
        "dataset_hash": read_manifest(dataset)["dataset_hash"],
        "architecture": values["architecture"],
        "training": values["training"],
        "sweep": {key: values["sweep"][key] for key in keys if key in values["sweep"]},
        "space": dump_space(space),
    }


def _budget(config: Config) -> int:
    return config.sweep.epochs or config.training.epochs


def _stopper(config: Config) -> Stopper:
    settings, budget = config.sweep, _budget(config)
    return STOPPERS[settings.stopper](budget, settings.grace_epochs or max(1, round(settings.grace_fraction * budget)))


def _run(config: Config, dataset: Path, out: Path, study: Study, count: int) -> None:
    from ..platform.ray_runtime import connect

    connect()  # before Ray is imported: it reads its settings once
    from ray import tune

    def work(parameters: dict[str, Any]) -> None:
        run = Path(parameters["run"])
        overrides = {"training.epochs": _budget(config)} | parameters["overrides"]
        attempt(run, lambda: _train_trial(config.override(overrides), dataset, run, tune.report))

    refusals: list[InputError] = []

    def propose() -> dict[str, Any] | None:
        try:
            proposal = study.propose()
        except InputError as refusal:  # raised below, when the trials that run have ended
            refusals.append(refusal)
            return None
        return {"number": proposal.number, "run": str(out / TRIALS_FOLDER / _name(proposal.number)), "overrides": proposal.parameters}

    def goes_on(parameters: dict[str, Any], report: dict[str, Any]) -> bool:
        # A trial that ends without having trained reports nothing of its own.
        return "losses" not in report or study.report(parameters["number"], report["epoch"], report["losses"], report["seconds"])

    def on_end(parameters: dict[str, Any]) -> None:
        run = Path(parameters["run"])
        study.end(parameters["number"], sum(line["seconds"] for line in read_history(run)), read_failure(run))
        _publish(config, out, study)

    with track(f"sweep {config.architecture.name}", count) as progress:
        run_trials(
            work,
            out / ".ray",
            progress,
            config.sweep.max_concurrent,
            on_end,
            search_alg=searcher(propose),
            scheduler=scheduler(goes_on),
            num_samples=count,
        )
    if refusals:
        raise refusals[0]


def _why_not(config: Config, dataset: Path, parameters: dict[str, Any]) -> str | None:
    """Why a trial with these parameters could not start, or None."""
    try:
        resolve(config.override(parameters), dataset)
    except Exception as error:  # whatever an architecture raises, it would raise in the trial
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _name(number: int) -> str:
    return f"{number:05d}"


def _train_trial(config: Config, dataset: Path, run: Path, report: Any) -> None:
    """Train, and report after each epoch the best loss so far. A trial that goes on first reports where it left off."""
    config = prepare_run(run, dataset, config, resume=True)
    history = read_history(run)
    best, seconds = math.inf, sum(line["seconds"] for line in history)
    if history:
        losses = [float(loss) for loss in np.minimum.accumulate([line["validation_loss"] for line in history])]
        best = losses[-1]
        report({"epoch": len(losses), "losses": losses, "seconds": seconds})

    def report_best(record: dict[str, float]) -> None:
        nonlocal best, seconds
        best, seconds = min(best, record["validation_loss"]), seconds + record["seconds"]
        report({"epoch": int(record["epoch"]), "losses": [best], "seconds": seconds})

    train(config, dataset, run, report_best)


def _row(trial: Any) -> dict[str, Any]:
    return {
        "trial": _name(trial.number),
        "state": _STATES[trial.state.name],
        "validation_loss": trial.value,
        "epochs": trial.last_step or 0,
        "seconds": trial.user_attrs["seconds"],
        "parameters": dict(trial.params),
        "reason": trial.user_attrs.get("reason"),
    }


def _publish(config: Config, out: Path, study: Study) -> list[dict[str, Any]]:
    """Write what the sweep has found so far; returns the leaderboard."""
    rows = leaderboard(study)
    _write_leaderboard(out, rows, list(study.space))
    if rows[0]["validation_loss"] is not None:
        # The trial's own file may hold the shorter budget of a sweep.
        best = load_config(out / TRIALS_FOLDER / rows[0]["trial"] / CONFIG_FILE).override({"training.epochs": config.training.epochs})
        best.save(out / BEST_FILE, ("architecture", "training"))  # on any dataset
    return rows


def _write_leaderboard(out: Path, rows: list[dict[str, Any]], keys: list[str]) -> None:
    write_json(out / f"{LEADERBOARD_FILE}.json", rows)
    columns = ["rank", "trial", "state", "validation_loss", "epochs", "seconds", *keys, "reason"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for rank, row in enumerate(rows, start=1):
        values = {key: value for key, value in row.items() if key != "parameters"} | row["parameters"]
        writer.writerow({"rank": rank} | {key: "" if value is None else value for key, value in values.items()})
    write_file(out / f"{LEADERBOARD_FILE}.csv", text.getvalue().encode())


def _conclude(config: Config, dataset: Path, out: Path, rows: list[dict[str, Any]], num_new: int) -> dict[str, Any]:
    best = rows[0]
    if best["validation_loss"] is None:
        raise InputError(f"all {len(rows)} trials in {str(out)!r} failed; the first because {best['reason']}")
    states = [row["state"] for row in rows]
    return {
        "out": str(out),
        "dataset": str(dataset),
        "architecture": config.architecture.name,
        "trials": len(rows),
        "new_trials": num_new,
        "states": {state: states.count(state) for state in _STATES.values()},
        "best": best,
        "best_config": str(out / BEST_FILE),
        "best_model": str(out / TRIALS_FOLDER / best["trial"] / "model"),
        "leaderboard": str(out / f"{LEADERBOARD_FILE}.json"),
        "seconds": sum(row["seconds"] for row in rows),
    }
