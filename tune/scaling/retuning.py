"""Hyperparameters for each size of a dataset-size study: a sweep for every contestant and size, whose best trial all its cells use.

Without it all sizes share settings, which may suit one size better than another; with it the law is that of the best that each size
allows. A sweep trains on the rows of the first draw as a cell does, and its trials are judged by the validation rows of that draw.
"""

import re
from dataclasses import replace
from typing import Any

from ...physics import InputError
from ...physics.files import read_json
from ...platform.config import Config
from ...platform.provenance import changed_keys
from ...platform.storage import Location
from ..folders import RECORD_FILE
from ..sweeps.objectives import VALIDATION_LOSS
from ..sweeps.search_spaces import default_space
from ..sweeps.sweep import RESULT_FILE, check_sweep, sweep
from .cells import TO_CONVERGENCE, Cell, Pool, cell_config, protocol_of
from .contestants import Contestant

SWEEPS_FOLDER = "sweeps"
Settings = dict[tuple[str, int], dict[str, Any]]  # parameters by contestant and size
# A trial that chose its own rows or steps would not be compared at the study's.
_OF_THE_STUDY = (
    "training.batch_size", "training.passes", "training.warmup_epochs", "training.patience", "training.seed", "training.train_rows",
    "training.train_start", "training.val_rows", "training.val_start", "training.trajectories_per_potential", "training.endless",
    "training.mixed_fraction", "training.mixed_ensemble", "training.initial_model",
)  # fmt: skip


def with_spaces(config: Config, contestants: list[Contestant], local: bool) -> list[Contestant]:
    """The contestants, each with the space that its sweeps search: `sweep.space`, or the shipped one without what the study sets.

    Raises
    ------
    InputError
        For a space that holds such a key, for settings of the sweeps that would break the protocol, and without Ray.
    """
    if local:
        raise InputError("scaling.retune runs a sweep for each size, which needs Ray: leave out --local, or scaling.retune")
    if config.sweep.epochs is not None:
        raise InputError(f"sweep.epochs is {config.sweep.epochs}; with scaling.retune trials train as long as the cells: leave it out")
    if tuple(config.sweep.objectives) != VALIDATION_LOSS:
        raise InputError(f"sweep.objectives is {config.sweep.objectives}; with scaling.retune the validation loss alone judges trials")
    return [replace(each, config=each.config.override({"sweep.space": _space_of(each)})) for each in contestants]


def sweep_config(base: Config, pool: Pool, name: str, size: int) -> Config:
    """What the sweep for a size varies: the first cell of that size, trained as long as all are."""
    return cell_config(base, pool, Cell(name, size, 0))


def check_retuning(
    contestants: list[Contestant], dataset: Location, out: Location | None, sizes: list[int], pool: Pool, trials: int
) -> None:
    """Raise InputError for sweeps that could not begin, or that would not search as those which `out` holds, before anything runs."""
    for contestant in contestants:
        try:
            search = check_sweep(sweep_config(contestant.config, pool, contestant.name, max(sizes)), dataset, trials)
        except InputError as error:
            raise InputError(f"the sweeps of {contestant.name} for scaling.retune cannot begin: {error}") from None
        now = search.identity(dataset)
        own = [record for name, _, record in _files(out, RECORD_FILE) if name == contestant.name] if out is not None else []
        for before in map(read_json, own):
            changes = changed_keys(*({key: each.get(key) for key in ("space", "sweep")} for each in (before, now)))
            if changes:
                raise InputError(f"{str(out)!r} already holds sweeps of {contestant.name} with {changes}; choose another folder")


def retune(bases: dict[str, Config], dataset: Location, out: Location, sizes: list[int], pool: Pool, trials: int) -> None:
    """Complete a sweep of `trials` trials for each contestant and size."""
    for name, base in bases.items():
        for size in sizes:
            sweep(sweep_config(base, pool, name, size), dataset, sweep_folder(out, name, size), trials)


def read_retuning(out: Location) -> list[dict[str, Any]]:
    """What each sweep of a study found and what it cost, by contestant and size; of all in the folder."""
    return [_row(name, size, path) for name, size, path in _files(out, RESULT_FILE)]


def settings_of(rows: list[dict[str, Any]]) -> Settings:
    """The parameters that the sweeps found, by contestant and size."""
    return {(row["name"], row["size"]): row["parameters"] for row in rows}


def sweep_folder(out: Location, name: str, size: int) -> Location:
    """The folder of the sweep for a contestant and a size."""
    return out / SWEEPS_FOLDER / f"{name}-{size}"


def _files(out: Location, file: str) -> list[tuple[str, int, Location]]:
    """Contestant, size and path of this file in each sweep of a study, by contestant and size."""
    found = [(re.fullmatch(r"(.+)-(\d+)", path.parent.name), path) for path in (out / SWEEPS_FOLDER).glob(f"*/{file}")]
    return sorted((name[1], int(name[2]), path) for name, path in found if name)


def _row(name: str, size: int, path: Location) -> dict[str, Any]:
    result = read_json(path)
    try:
        best = {"parameters": result["best"]["parameters"], "objectives": {key: result["best"][key] for key in result["objectives"]}}
        return {"name": name, "size": size} | {key: result[key] for key in ("trials", "seconds", "wall_seconds", "at_edges")} | best
    except (KeyError, TypeError):
        raise InputError(f"{path} holds no result of a sweep; delete it, and the command writes it again") from None


def _space_of(contestant: Contestant) -> dict[str, Any]:
    config = contestant.config
    fixed = (*_OF_THE_STUDY, *(["training.schedule"] if protocol_of(config) == TO_CONVERGENCE else []))
    if not config.sweep.space:
        return {key: form for key, form in default_space(config.architecture.name).items() if key not in fixed}
    chosen = [key for key in config.sweep.space if key in fixed or key.startswith("data.")]
    if chosen:
        raise InputError(f"sweep.space has {chosen[0]}, which a dataset-size study sets for all its cells: leave it out")
    return config.sweep.space
