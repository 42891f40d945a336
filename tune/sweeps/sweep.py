"""Hyperparameter sweeps: Ray Tune runs the trials, Optuna proposes them, and poor ones are stopped early.

The output folder:

    study.json          what is swept: dataset, settings, space
    optuna.db           the record that survives: every trial proposed, what it reported and how it ended
    trials/00000/ ...   run folders, as `training` writes them; checkpoints of the best trial only
    datasets/           where the space varies keys of data
    finals/00003-1/ ... run folders of the finalists, by trial and seed
    cost.json           what `plan sweep` expected, and what each call took
    sweep.json          the result; and what `leaderboard` writes whenever a trial ends
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...physics import InputError
from ...physics.errors import StorageUnavailable
from ...physics.files import read_json, write_json
from ...platform.config import Config, load_config
from ...platform.data.manifest import read_manifest
from ...platform.progress import track
from ...platform.storage import Location, locate
from ...platform.training.run_folder import DATASET_FILE, MODEL_FOLDER
from ...platform.training.runs import check_start
from ..folders import check_owner, claimed, read_cost, recorded, resolve
from ..trials import attempt, full_disk_in_words, read_failure, run_trials, scheduler, searcher
from .datasets import dataset_of, generate_datasets
from .finals import judge_finals, prepare_finals, run_final
from .leaderboard import BEST_FILE, LEADERBOARD_FILE, PAGE_FILE, STATES, TRIALS_FOLDER, Outputs, trial_folder
from .resources import Share, cluster_nodes, share_cluster
from .runs import TrialWork, run_folders, trained
from .samplers import make_sampler
from .search_spaces import Space, at_edges, dump_space, is_active, parse_space
from .stopping import STOPPERS, Stopper
from .study import STUDY_NAME, Study, open_database

RESULT_FILE = "sweep.json"
_RECORD_VERSION = 3  # of what the storage holds


def sweep(config: Config, dataset: Location, out: Location, num_trials: int, storage: str | None = None) -> dict[str, Any]:
    """Search `sweep.space` for the smallest `sweep.objectives` with `num_trials` trials; returns the result.

    Run again, it does what is missing up to `num_trials` and nothing that is done: trials that a stopped
    driver left half-way go on from their checkpoints. A trial that fails counts as done, and its reason is recorded. Where no trial
    could start with the proposed parameters, others are drawn. Each trial trains `sweep.epochs` epochs (`training.epochs` by default)
    unless `sweep.stopper` stops it, which compares it with all trials of the study, those before an interruption included. Its score
    is that of its best epoch, the one whose model is kept. The study is recorded in `out`, or in the database at the URL `storage`.
    The best `sweep.finalists` trials are then trained again; see `finals`.

    Raises
    ------
    InputError
        For an unusable dataset, configuration or space, where `out` holds anything but this very sweep, where a trial does not
        fit the cluster, or where every trial failed.
    """
    dataset, out, began = dataset.absolute(), out.absolute(), time.monotonic()
    search = check_sweep(config, dataset, num_trials)
    resolved = search.config
    check_owner(out, search.identity(dataset))
    if not (out / TRIALS_FOLDER).exists():
        check_trials_can_start(resolved, search.space, num_trials)
    held = open_database(out, storage) if storage else None  # refused, if it must be, before anything is written
    with full_disk_in_words(out), claimed(out, search.identity(dataset)):
        held = held or open_database(out)
        name = _study_name(held.storage, out, storage)
        study = Study(
            held.storage, search.space, stopper_of(resolved), search.sampler, partial(why_not, resolved, dataset, out),
            name=name, num_objectives=len(resolved.sweep.objectives), start=search.start, keep=held.keep,
        )  # fmt: skip
        outputs = Outputs(out, resolved, study)
        missing = num_trials - len(study.ended())
        with recorded(out, began) as call:
            try:
                if missing > 0:
                    _search(resolved, dataset, out, study, outputs, missing)
            finally:  # also after Ctrl-C
                if missing > 0:
                    study.count_seconds()
                    call["trials"] = len(study.ended()) - num_trials + missing
                rows = outputs.write(at_end=True)
            _check_any_succeeded(out, rows)
            finals = _hold_finals(resolved, dataset, out, study, rows)
            if finals:
                first = finals["finalists"][0]["trial"]
                rows.sort(key=lambda row: row["trial"] != first)
                outputs.write_best(rows[0])
        return _conclude(resolved, dataset, out, study, rows, finals) | {"new_trials": max(missing, 0)}


@dataclass(frozen=True)
class Search:
    """A sweep that can begin: its resolved configuration, the parsed space, and the parameters to start from."""

    config: Config
    space: Space
    start: list[dict[str, Any]]
    sampler: Callable[[int], Any]

    def identity(self, dataset: Location) -> dict[str, Any]:
        """What all trials of the sweep have in common."""
        values = self.config.dump()
        keys = ("epochs", "objectives", "seeds", "sampler", "stopper", "grace_fraction", "grace_epochs", "seed")
        settings = {key: values["sweep"][key] for key in keys if key in values["sweep"]}
        return {
            "kind": "sweep",
            "record_version": _RECORD_VERSION,
            "dataset_hash": read_manifest(dataset)["dataset_hash"],
            "architecture": values["architecture"],
            "training": values["training"],
            "sweep": settings | {"start_from": self.start},
            "space": dump_space(self.space),
        }


def check_sweep(config: Config, dataset: Location, num_trials: int) -> Search:
    """What a sweep needs to begin; InputError as in `sweep`, before anything is written."""
    if num_trials < 1:
        raise InputError(f"--trials is {num_trials}; ask for at least 1")
    resolved = resolve(config, dataset)
    space, settings = parse_space(resolved), resolved.sweep
    _check_seeds(resolved, space)
    start = [_known_parameters(source, resolved.architecture.name, space) for source in settings.start_from]
    sampler = partial(make_sampler, settings.sampler, space, num_trials, settings.seed, num_objectives=len(settings.objectives))
    sampler(0)  # refuses what it cannot search
    return Search(resolved, space, start, sampler)


def check_trials_can_start(config: Config, space: Space, num_trials: int) -> None:
    """Raise InputError where the cluster cannot be reached or has no room for a trial, or its devices cannot train with these settings."""
    from ...platform.ray_runtime import connect

    share = share_cluster(cluster_nodes(connect()), config.sweep, num_trials)
    if not {"training.precision", "training.cuda_graph"} & space.keys():  # else it is for each trial to find out
        check_start(config.training, torch.device("cuda" if share.gpus else "cpu"), share.workers)


def stopper_of(config: Config) -> Stopper:
    """The early stopping of a resolved configuration."""
    settings, budget = config.sweep, trial_epochs(config)
    return STOPPERS[settings.stopper](budget, settings.grace_epochs or max(1, round(settings.grace_fraction * budget)))


def trial_epochs(config: Config) -> int:
    """The epochs of a trial that is not stopped."""
    return config.sweep.epochs or config.training.epochs


def _check_seeds(config: Config, space: Space) -> None:
    if config.sweep.seeds > 1 and "training.seed" in space:
        raise InputError(f"sweep.space has training.seed and sweep.seeds is {config.sweep.seeds}; leave one of them out")


def _known_parameters(source: str, architecture: str, space: Space) -> dict[str, Any]:
    """The parameters of a configuration, for a trial that has them; InputError where the space does not have them."""
    config = load_config(source, given_as="sweep.start_from")
    if config.architecture.name != architecture:
        raise InputError(f"sweep.start_from has {source!r}, a configuration of {config.architecture.name}; this sweep is of {architecture}")
    parameters: dict[str, Any] = {}
    for key, domain in space.items():
        if not is_active(domain, parameters):
            continue
        section, _, name = key.partition(".")
        value = config.dump()[section].get(name)
        if not domain.holds(value):
            raise InputError(f"sweep.start_from has {source!r}, where {key} is {value!r}; sweep.space has {domain.dump()}")
        parameters[key] = value
    return parameters


def _study_name(held: Any, out: Location, url: str | None) -> str:
    """A database may hold many sweeps: there the folder is the name. Trials without their study mean another database."""
    name = str(out) if url else STUDY_NAME
    if (out / TRIALS_FOLDER).exists() and name not in {study.study_name for study in held.get_all_studies()}:
        where = f"the database {url!r}" if url else "optuna.db"
        remedy = "give the --storage that the sweep began with, or choose another folder"
        raise InputError(f"--out {str(out)!r} holds trials, and {where} no study of them; {remedy}")
    return name


def _search(config: Config, dataset: Location, out: Location, study: Study, outputs: Outputs, count: int) -> None:
    from ...platform.ray_runtime import connect

    ray = connect()  # before Ray is imported: it reads its settings once
    from ray import tune

    share = share_cluster(cluster_nodes(ray), config.sweep, count)
    generate_datasets(config, dataset, out, study.space)
    # What a trial holds itself: where it has several workers, they hold their own.
    resources: dict[str, float] = (
        {"cpu": 0, "memory": 1} if share.workers > 1 else {key.lower(): value for key, value in share.of_worker.items()}
    )

    def work(parameters: dict[str, Any]) -> None:
        _work(config, dataset, out, share, parameters, tune.report)

    refusals: list[InputError | StorageUnavailable] = []

    def propose() -> dict[str, Any] | None:
        try:
            proposal = study.propose()
        except (InputError, StorageUnavailable) as refusal:  # raised below, when the trials that run have ended
            refusals.append(refusal)
            return None
        run = trial_folder(out, proposal.number)
        rungs = list(study.stopper.rungs(proposal.number))
        return {"number": proposal.number, "run": str(run), "rungs": rungs, "overrides": proposal.parameters}

    def goes_on(parameters: dict[str, Any], report: dict[str, Any]) -> bool:
        # A trial that ends without having trained reports nothing of its own.
        return "values" not in report or study.report(parameters["number"], dict(report["values"]), report["seconds"])

    def on_end(parameters: dict[str, Any]) -> str:
        run = locate(parameters["run"])
        study.end(parameters["number"], *trained(run, config.sweep.seeds), read_failure(run))
        study.count_seconds()
        return _best_so_far(outputs.write(), config.sweep.objectives)

    with track(f"sweep {config.architecture.name}", count) as progress:
        run_trials(
            work,
            out / ".ray",
            progress,
            share.concurrent,
            on_end,
            resources,
            share.workers == 1,
            dataset=dataset,
            search_alg=searcher(propose),
            scheduler=scheduler(goes_on),
            num_samples=count,
        )
    if refusals:
        raise refusals[0]


def _work(
    config: Config, dataset: Location, out: Location, share: Share, parameters: dict[str, Any], report: Callable[[dict[str, Any]], None]
) -> None:
    """What a trial does, in its own process."""
    run, overrides = locate(parameters["run"]), parameters["overrides"]

    def train_trial() -> None:
        own = config.override({"training.epochs": trial_epochs(config)} | overrides)
        trial = TrialWork(own, dataset_of(overrides, config, dataset, out), run, parameters["rungs"], share, report)
        trial.prepare()
        trial()

    attempt(run, train_trial)


def _best_so_far(rows: list[dict[str, Any]], objectives: Sequence[str]) -> str:
    best = [row for row in rows if row["reason"] is None]
    if not best:
        return "all trials failed so far"
    if len(objectives) > 1:
        return f"{sum(row['front'] for row in rows)} trials on the Pareto front"
    return f"best {objectives[0]} {best[0][objectives[0]]:.3e}, trial {best[0]['trial']}"


def why_not(config: Config, dataset: Location, out: Location, parameters: dict[str, Any]) -> str | None:
    """Why a trial with these parameters could not start, or None."""
    try:
        resolve(config.override(parameters), dataset_of(parameters, config, dataset, out))
    except Exception as error:  # whatever an architecture raises, it would raise in the trial
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _check_any_succeeded(out: Location, rows: list[dict[str, Any]]) -> None:
    if rows and all(row["state"] == "failed" for row in rows):
        reason = f"all {len(rows)} trials in {str(out)!r} failed; the first because {rows[0]['reason']}"
        raise InputError(f"{reason}; choose another space, and another folder")


def _hold_finals(config: Config, dataset: Location, out: Location, study: Study, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    pending = prepare_finals(config, dataset, out, rows)
    if pending:
        from ...platform.ray_runtime import connect

        ray = connect()
        from ray import tune

        share = share_cluster(cluster_nodes(ray), config.sweep, len(pending))

        def work(parameters: dict[str, Any]) -> None:
            run = locate(parameters["run"])
            run_final(run, locate(read_json(run / DATASET_FILE)["dataset"]), tune.report)

        grid = {"run": tune.grid_search([str(run) for run in pending])}
        resources = {key.lower(): value for key, value in share.of_worker.items()}
        with track(f"finals {config.architecture.name}", len(pending)) as progress:
            run_trials(work, out / ".ray", progress, share.concurrent, resources=resources, dataset=dataset, param_space=grid)
        study.count_seconds()
    return judge_finals(config, out, rows)


def _conclude(
    config: Config, dataset: Location, out: Location, study: Study, rows: list[dict[str, Any]], finals: dict[str, Any] | None
) -> dict[str, Any]:
    best, states = rows[0], [row["state"] for row in rows]
    result = {
        "out": str(out),
        "dataset": str(dataset),
        "architecture": config.architecture.name,
        "objectives": config.sweep.objectives,
        "trials": len(rows),
        "states": {state: states.count(state) for state in STATES.values()},
        "best": best,
        "best_config": str(out / BEST_FILE),
        "best_model": str(run_folders(trial_folder(out, int(best["trial"])), config.sweep.seeds)[0] / MODEL_FOLDER),
        "at_edges": at_edges(study.space, best["parameters"]),
        "finals": finals,
        "leaderboard": str(out / f"{LEADERBOARD_FILE}.json"),
        "page": str(out / PAGE_FILE),
        "seconds": sum(row["seconds"] for row in rows),
        "wall_seconds": study.wall_seconds,
        "cost": read_cost(out),
    }
    write_json(out / RESULT_FILE, result)
    return result
