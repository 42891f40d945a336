"""Hyperparameter sweeps: Ray Tune runs the trials, Optuna proposes them and remembers, ASHA stops the poor ones.

The output folder:

    study.json          what is swept: dataset, settings, space
    optuna.db           the record that survives: every trial proposed and how it ended
    trials/00000/ ...   run folders, as `training` writes them
    leaderboard.csv, leaderboard.json, best.yaml    written when all trials have ended
"""

import csv
import io
import math
from dataclasses import dataclass
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
from .search_spaces import Space, dump_space, parse_space
from .trials import attempt, read_failure, read_history, run_trials

STORAGE_FILE, LEADERBOARD_FILE, BEST_FILE, TRIALS_FOLDER = "optuna.db", "leaderboard", "best.yaml", "trials"
_STUDY_NAME = "sweep"
_REDUCTION_FACTOR = 3  # ASHA lets about one trial in three past each rung
# Optuna and Tune cannot take NaN: a trial left running for ever. Rank, not size, is what the sampler reads.
_FAILED_LOSS = 1e12
_INTERRUPTED = "interrupted"


def sweep(config: Config, dataset: Path, out: Path, num_trials: int) -> dict[str, Any]:
    """Search `sweep.space` for the smallest validation loss with `num_trials` trials; returns the result.

    Run again, it does what is missing up to `num_trials` and nothing that is done: trials that a stopped
    driver left half-way go on from their checkpoints. A trial that fails counts as done, and its reason is recorded.
    ASHA compares the trials of one call, and so begins afresh after an interruption; Optuna remembers all.
    Each trial trains `sweep.epochs` epochs (`training.epochs` by default) unless ASHA stops it after at
    least `sweep.grace_epochs`; its score is the loss of its best epoch, the one whose model is kept.

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
    with claimed(out, _identity(resolved, dataset, space)):
        storage = _open_storage(out)
        study = _load_study(storage)
        _settle_interrupted(study, space)
        missing = num_trials - len(_ended(study))
        if missing > 0:
            _run(resolved, dataset, out, space, storage, missing)
        rows = leaderboard(study, out, _budget(resolved))
        _write_leaderboard(out, rows, list(space))
        return _conclude(resolved, dataset, out, rows, max(missing, 0))


def leaderboard(study: Any, out: Path, epochs: int) -> list[dict[str, Any]]:
    """One row for each trial that ended, best first: finished and stopped ones by validation loss, then failed ones."""
    rows = [_row(trial, out, epochs) for trial in _ended(study)]
    return sorted(rows, key=lambda row: (math.inf if row["validation_loss"] is None else row["validation_loss"], row["trial"]))


def _identity(config: Config, dataset: Path, space: Space) -> dict[str, Any]:
    values = config.dump()
    return {
        "kind": "sweep",
        "dataset_hash": read_manifest(dataset)["dataset_hash"],
        "architecture": values["architecture"],
        "training": values["training"],
        "sweep": {key: values["sweep"][key] for key in ("epochs", "grace_epochs", "seed")},
        "space": dump_space(space),
    }


def _budget(config: Config) -> int:
    return config.sweep.epochs or config.training.epochs


def _open_storage(out: Path) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # SQLite rather than a journal file: its locks end with the process that held them.
    return optuna.storages.RDBStorage(f"sqlite:///{out / STORAGE_FILE}")


def _load_study(storage: Any) -> Any:
    import optuna

    return optuna.create_study(study_name=_STUDY_NAME, storage=storage, direction="minimize", load_if_exists=True)


def _settle_interrupted(study: Any, space: Space) -> None:
    """Trials still running belong to a driver that is gone: close them, and queue the same parameters in the same folder."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.set_user_attr(_INTERRUPTED, [*study.user_attrs.get(_INTERRUPTED, []), trial.number])
        study.tell(trial.number, state=TrialState.FAIL)
        if set(trial.params) == set(space):  # else it was stopped while its parameters were being drawn
            study.enqueue_trial(trial.params, user_attrs={"folder": _folder(trial)})


def _ended(study: Any) -> list[Any]:
    """Trials that ended by themselves; a continued one counts once, as its continuation."""
    interrupted = set(study.user_attrs.get(_INTERRUPTED, []))
    return [trial for trial in study.get_trials() if trial.state.is_finished() and trial.number not in interrupted]


def _folder(trial: Any) -> str:
    return trial.user_attrs.get("folder", f"{trial.number:05d}")


@dataclass(frozen=True)
class _Proposal:
    """Draws the parameters of a trial and names its run folder. A class, because Tune pickles its searcher by name."""

    space: Space
    trials_folder: Path

    def __call__(self, trial: Any) -> dict[str, Any]:
        for key, domain in self.space.items():
            domain.suggest(trial, key)
        return {"run": str(self.trials_folder / _folder(trial))}


def _run(config: Config, dataset: Path, out: Path, space: Space, storage: Any, count: int) -> None:
    from optuna.samplers import TPESampler

    from ..platform.ray_runtime import connect

    connect()  # before Ray is imported: it reads its settings once
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    epochs = _budget(config)

    def work(parameters: dict[str, Any]) -> None:
        run = Path(parameters["run"])
        overrides = {"training.epochs": epochs} | {key: parameters[key] for key in space}
        reason = attempt(run, lambda: _train_trial(config.override(overrides), dataset, run, tune.report))
        if reason is not None:
            tune.report({"epoch": epochs, "validation_loss": _FAILED_LOSS})

    # A sampler seeded alike in every driver would propose its first trials again after an interruption.
    seeds = np.random.SeedSequence([config.sweep.seed, len(_load_study(storage).trials)])
    sampler = TPESampler(seed=int(seeds.generate_state(1)[0]))
    proposal = _Proposal(space, out / TRIALS_FOLDER)
    search = OptunaSearch(proposal, metric="validation_loss", mode="min", sampler=sampler, study_name=_STUDY_NAME, storage=storage)
    # One epoch beyond the budget: ASHA ends trials at max_t, and a trial that gets there ends by itself.
    scheduler = ASHAScheduler(
        time_attr="epoch", max_t=epochs + 1, grace_period=min(config.sweep.grace_epochs, epochs), reduction_factor=_REDUCTION_FACTOR
    )
    with track(f"sweep {config.architecture.name}", count) as progress:
        run_trials(
            work,
            out / ".ray",
            progress,
            config.sweep.max_concurrent,
            metric="validation_loss",
            mode="min",
            search_alg=search,
            scheduler=scheduler,
            num_samples=count,
        )


def _train_trial(config: Config, dataset: Path, run: Path, report: Any) -> None:
    config = prepare_run(run, dataset, config, resume=True)
    best = min((line["validation_loss"] for line in read_history(run)), default=math.inf)

    def report_best(record: dict[str, float]) -> None:
        nonlocal best
        best = min(best, record["validation_loss"])
        report({"epoch": int(record["epoch"]), "validation_loss": best})

    result = train(config, dataset, run, report_best)
    # Once more, for a trial that had trained its last epoch before it was interrupted.
    report({"epoch": result["epochs"], "validation_loss": result["validation_loss"]})


def _row(trial: Any, out: Path, epochs: int) -> dict[str, Any]:
    run = out / TRIALS_FOLDER / _folder(trial)
    history, reason = read_history(run), read_failure(run)
    if reason is None and not history:
        reason = "it ended before its first epoch"
    state = "failed" if reason else "finished" if len(history) >= epochs else "stopped early"
    return {
        "trial": _folder(trial),
        "state": state,
        "validation_loss": None if reason else min(line["validation_loss"] for line in history),
        "epochs": len(history),
        "seconds": sum(line["seconds"] for line in history),
        "parameters": dict(trial.params),
        "reason": reason,
    }


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
    run = out / TRIALS_FOLDER / best["trial"]
    # The trial's own file may hold the shorter budget of a sweep.
    best_config = load_config(run / CONFIG_FILE).override({"training.epochs": config.training.epochs})
    best_config.save(out / BEST_FILE, ("architecture", "training"))  # on any dataset
    states = [row["state"] for row in rows]
    return {
        "out": str(out),
        "dataset": str(dataset),
        "architecture": config.architecture.name,
        "trials": len(rows),
        "new_trials": num_new,
        "states": {state: states.count(state) for state in ("finished", "stopped early", "failed")},
        "best": best,
        "best_config": str(out / BEST_FILE),
        "best_model": str(run / "model"),
        "leaderboard": str(out / f"{LEADERBOARD_FILE}.json"),
        "seconds": sum(row["seconds"] for row in rows),
    }
