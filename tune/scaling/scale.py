"""Dataset-size studies: how the test loss of contestants falls with the number of training trajectories, and who is ahead.

The output folder:

    study.json                       what is studied: dataset and settings
    cost.json                        what `plan scale` expected, and what each call took
    sweeps/<name>-<size>/            the sweep that chose the settings of a size, where `scaling.retune` asks for them
    runs/<name>-<size>-<seed>/ ...   run folders as `training` writes them, -draw1, ... appended for other draws than the first;
                                     test.json and losses.npy once measured
    scaling.json, .csv, .parquet, .md, .png, .svg    what all cells in the folder show
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...physics import InputError
from ...platform.config import Config, load_config
from ...platform.data.manifest import read_manifest
from ...platform.machine import default_device
from ...platform.progress import Progress, track
from ...platform.provenance import changed_keys
from ...platform.storage import Location, locate
from ...platform.training.loop import Report, train
from ...platform.training.run_folder import CONFIG_FILE, prepare_run
from ...platform.training.runs import check_start, steps_of
from ..folders import check_owner, claimed, read_cost, recorded, resolve, without_free_keys
from ..scores import is_scored, score_cell
from ..sweeps.resources import cluster_nodes, share_cluster
from ..trials import attempt, full_disk_in_words, run_trials
from .cells import TO_CONVERGENCE, Cell, Grid, Pool, cell_config, check_grid, check_leakage, protocol_of
from .conclusions import conclude, run_of
from .contestants import Contestant, read_contestants, vary_trajectories
from .retuning import check_retuning, read_retuning, retune, settings_of, with_spaces


def scale(
    config: Config,
    dataset: Location,
    out: Location,
    names: list[str],
    sizes: list[int],
    seeds: int,
    *,
    draws: int = 1,
    trajectories: list[int] | None = None,
    local: bool = False,
) -> dict[str, Any]:
    """Train every cell of contestants x sizes x draws x seeds, measure it on the test split and fit loss = E + A size^(-alpha).

    A cell trains on the first `size` rows of its draw, and selects its model by as large a fraction of the draw's validation rows: see
    `Pool`. `scaling.protocol` decides for how long. Each is measured by its best model; on the val split, and the result says so, where
    the dataset has no test rows. `names` are contestants: see `read_contestants`; with `trajectories` each enters once for each of these
    numbers of trajectories per potential, with as many rows. With `scaling.retune` a sweep chooses the settings of each contestant and
    size first: see `retuning`. Cells run under Ray Tune; with `local` one after another in this process, without Ray.

    Run again, it skips cells that are done and continues those begun from their checkpoints; sizes, seeds, draws and
    contestants may be added. The result is of all cells in the folder, also of those that this call does not ask for. A cell that
    fails is listed with its reason and tried again the next time.

    Raises
    ------
    InputError
        For sizes and draws that the dataset has too few rows for or another bad grid, before anything runs; where potentials of the
        training rows are among those of the other splits; where `out` holds anything but this study; or where every cell failed.
    """
    dataset, out, started = dataset.absolute(), out.absolute(), time.monotonic()
    design = design_study(config, dataset, names, Grid(sizes, seeds, draws), trajectories, out, local)
    split, pool = measured_split(dataset), design.pool
    potentials = check_leakage(dataset, design.grid, design.contestants, pool, split)
    bases = {contestant.name: resolve(contestant.config, dataset) for contestant in design.contestants}
    cells = design.grid.cells(list(bases))
    check_owner(out, identity(config, dataset))
    if not any(run_of(out, cell).exists() for cell in cells):
        _check_cells_can_start(config, list(bases.values()), local)
    with full_disk_in_words(out), claimed(out, identity(config, dataset)):
        with recorded(out, started) as call:
            if config.scaling.retune:
                call["cells"] = 0
                retune(bases, dataset, out, sizes, pool, config.scaling.retune)
                call.clear()
            retuning = read_retuning(out)
            settings = settings_of(retuning)
            pending = [cell for cell in cells if not is_scored(run_of(out, cell))]
            for cell in cells:
                wanted = cell_config(bases[cell.contestant], pool, cell).override(settings.get((cell.contestant, cell.size), {}))
                _check_unchanged(run_of(out, cell), wanted)
                if cell in pending:
                    prepare_run(run_of(out, cell), dataset, wanted, resume=True)
            if pending:
                try:
                    _run(config, dataset, out, pending, split, local)
                finally:
                    call["cells"] = sum(is_scored(run_of(out, cell)) for cell in pending)
        about = {"potentials": potentials, "new_cells": len(pending), "retuning": retuning, "cost": read_cost(out)}
        return conclude(config, dataset, out, cells, split, about)


@dataclass(frozen=True)
class Design:
    """What a study compares, with how many rows, draws and seeds, and the rows that there are."""

    grid: Grid
    contestants: list[Contestant]
    pool: Pool


def design_study(
    config: Config, dataset: Location, names: list[str], grid: Grid, trajectories: list[int] | None, out: Location | None, local: bool
) -> Design:
    """The design of a study that can begin in `out`; InputError as in `scale`, before anything is written."""
    contestants = vary_trajectories(read_contestants(config, names), trajectories)
    if config.scaling.retune:
        contestants = with_spaces(config, contestants, local)
    pool = Pool.of(dataset, max(1, grid.draws))
    check_grid(grid, contestants, pool)
    if config.scaling.retune:
        check_retuning(contestants, dataset, out, grid.sizes, pool, config.scaling.retune)
    return Design(grid, contestants, pool)


def measured_split(dataset: Location) -> str:
    """The split that cells are measured on."""
    return "test" if read_manifest(dataset)["counts"]["test"] else "val"


def identity(config: Config, dataset: Location) -> dict[str, Any]:
    """What all cells of a folder have in common."""
    chosen_by_cells = ("train_rows", "train_start", "trajectories_per_potential", "val_rows", "val_start", "seed")
    training = {key: value for key, value in config.dump()["training"].items() if key not in chosen_by_cells}
    patience = {"patience": config.scaling.patience} if protocol_of(config) == TO_CONVERGENCE else {}
    retuning = {"retune": config.scaling.retune} if config.scaling.retune else {}
    return {
        "kind": "dataset-size study",
        "dataset_hash": read_manifest(dataset)["dataset_hash"],
        "split": measured_split(dataset),
        "training": training,
        "steps": config.scaling.steps,  # null: equal-epochs
        **patience,  # to-convergence, else equal-steps
        **retuning,
        "max_rows": config.evaluation.max_rows,
    }


def _check_unchanged(run: Location, wanted: Config) -> None:
    """A cell done or begun with other settings must not pass for one of this study."""
    if not (run / CONFIG_FILE).exists():
        return
    before, now = load_config(run / CONFIG_FILE).dump(), wanted.dump()
    sections = ("architecture", "training")
    changes = changed_keys(*(without_free_keys({section: values[section] for section in sections}) for values in (before, now)))
    if changes:
        raise InputError(f"--out {str(run.parent.parent)!r} already holds cell {run.name} with {changes}; choose another folder")


def _run(config: Config, dataset: Location, out: Location, cells: list[Cell], split: str, local: bool) -> None:
    # Long cells first: a short one last leaves no core idle for long.
    runs = [run_of(out, cell) for cell in sorted(cells, key=lambda cell: -cell.size)]
    work = _Work(dataset, split, config.evaluation.max_rows, config.evaluation.batch_size)
    with track(f"scale {', '.join(dict.fromkeys(cell.contestant for cell in cells))}", len(cells)) as progress:
        if local:
            _run_here(work, runs, progress)
        else:
            _run_on_tune(work, runs, out / ".ray", progress, config.scaling.max_concurrent)


@dataclass(frozen=True)
class _Work:
    """Trains a cell and measures it."""

    dataset: Location
    split: str
    max_rows: int | None
    batch_size: int

    def __call__(self, run: Location, report: Report) -> None:
        def finish() -> None:
            config = load_config(run / CONFIG_FILE)
            result = train(config, self.dataset, run, report)
            keys = ("architecture", "num_parameters", "epochs", "validation_loss", "seconds", "stopped_early")
            about = {key: result[key] for key in keys} | {"steps": steps_of(config) * result["epochs"] // config.training.epochs}
            score_cell(run, self.dataset, self.split, self.max_rows, self.batch_size, about)

        attempt(run, finish)


def _check_cells_can_start(config: Config, bases: list[Config], local: bool) -> None:
    """Raise InputError where the cluster cannot be reached or is too small, or its devices cannot train with these settings."""
    device = default_device()
    if not local:
        from ...platform.ray_runtime import connect

        ray = connect()
        device = torch.device("cuda" if ray.cluster_resources().get("GPU") else "cpu")
        if config.scaling.retune:
            share_cluster(cluster_nodes(ray), config.sweep, config.scaling.retune)
    for base in bases:
        check_start(base.training, device)


def _run_here(work: Callable[[Location, Report], None], runs: list[Location], progress: Progress) -> None:
    for run in runs:
        work(run, lambda _: None)
        progress.advance()


def _run_on_tune(work: _Work, runs: list[Location], scratch: Location, progress: Progress, max_concurrent: int | None) -> None:
    from ...platform.ray_runtime import connect

    cluster = connect().cluster_resources()  # before Tune is imported: it reads its settings once
    from ray import tune

    grid = {"run": tune.grid_search([str(run) for run in runs])}
    at_once = max_concurrent or max(1, int(cluster.get("CPU", 1)))
    run_trials(lambda given: work(locate(given["run"]), tune.report), scratch, progress, at_once, dataset=work.dataset, param_space=grid)
