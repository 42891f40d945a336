"""The cells of a dataset-size study: which rows each trains on, for how long, and what the study's protocol is called."""

import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ...physics import InputError
from ...platform.config import Config
from ...platform.data.datasets import RowFile, list_files, row_numbers
from ...platform.data.manifest import read_config, read_manifest
from ...platform.storage import Location
from ...platform.training.batches import training_files, validation_files
from .contestants import Contestant

EQUAL_STEPS, EQUAL_EPOCHS, TO_CONVERGENCE = "equal-steps", "equal-epochs", "to-convergence"


@dataclass(frozen=True)
class Cell:
    """One run of a study: a contestant, trained on `size` rows of a draw of the dataset with one training seed."""

    contestant: str
    size: int
    seed: int
    draw: int = 0

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"{self.contestant}-{self.size}-{self.seed}" + (f"-draw{self.draw}" if self.draw else "")

    @staticmethod
    def parse(name: str) -> "Cell | None":
        """The cell of a run folder; None where that is none of a study."""
        found = re.fullmatch(r"(.+)-(\d+)-(\d+)(?:-draw(\d+))?", name)
        return Cell(found[1], int(found[2]), int(found[3]), int(found[4] or 0)) if found else None


@dataclass(frozen=True)
class Grid:
    """What is asked of a study: every contestant with every size, on every draw, with every seed."""

    sizes: list[int]
    seeds: int
    draws: int = 1

    def cells(self, names: list[str]) -> list[Cell]:
        """All cells, in the order of their table."""
        axes = itertools.product(names, self.sizes, range(self.draws), range(self.seeds))
        return [Cell(name, size, seed, draw) for name, size, draw, seed in axes]


@dataclass(frozen=True)
class Pool:
    """The rows of a dataset, cut into as many equal parts as there are draws.

    Draw d owns part d of the training and of the validation rows, and a cell takes the first of them. So sizes of one draw are nested,
    and different draws share no row and no potential.
    """

    train: int  # rows of a draw
    val: int
    orbits: int  # consecutive rows that share a potential

    @classmethod
    def of(cls, dataset: Location, draws: int) -> "Pool":
        """Raises InputError where a draw would have no rows."""
        manifest = read_manifest(dataset)
        orbits = read_config(manifest).distribution.orbits_per_hamiltonian
        train, val = (_part(manifest["counts"][split], draws, orbits) for split in ("train", "val"))
        for split, rows in (("train", train), ("val", val)):
            if not rows:
                raise InputError(
                    f"--draws is {draws}; split {split!r} of dataset {str(dataset)!r} has {manifest['counts'][split]} rows, "
                    f"too few to divide: generate more with --{split} N, or take fewer draws"
                )
        return cls(train, val, orbits)

    def usable(self, per_potential: int | None) -> int:
        """The training rows of a draw with this many trajectories of each potential; InputError where potentials have fewer."""
        return len(row_numbers(self.train, self.orbits, per_potential=per_potential))

    def rows_of(self, cell: Cell) -> dict[str, int]:
        """The keys of the training section that choose a cell's rows: it selects its model by as large a fraction of the val rows."""
        return {
            "training.train_rows": cell.size,
            "training.train_start": cell.draw * self.train,
            "training.val_rows": min(self.val, -(-self.val * cell.size // self.train)),
            "training.val_start": cell.draw * self.val,
        }


def _part(rows: int, draws: int, orbits: int) -> int:
    return rows if draws == 1 else rows // draws // orbits * orbits


def check_grid(grid: Grid, contestants: list[Contestant], pool: Pool) -> None:
    """Raise InputError for a grid that the rows of a dataset do not suffice for, and for settings that the protocol excludes."""
    sizes = grid.sizes
    if not sizes or len(set(sizes)) < len(sizes):
        raise InputError(f"--sizes is {','.join(map(str, sizes))!r}; give one or more different values")
    for contestant in contestants:
        settings = contestant.config.training
        if protocol_of(contestant.config) != EQUAL_EPOCHS and contestant.config.scaling.steps is None:
            raise InputError(f"scaling.protocol is {protocol_of(contestant.config)!r}; give scaling.steps, a number of optimizer steps")
        if protocol_of(contestant.config) == TO_CONVERGENCE and settings.schedule != "constant":
            raise InputError(
                f"training.schedule of {contestant.name} is {settings.schedule!r}, which ends every run at its last step: "
                f"protocol {TO_CONVERGENCE} needs training.schedule=constant"
            )
        usable = pool.usable(settings.trajectories_per_potential)
        wrong = [size for size in sizes if not 1 <= size <= usable]
        if wrong:
            each = f" with {settings.trajectories_per_potential} of each potential" if settings.trajectories_per_potential else ""
            where = "the dataset" if grid.draws == 1 else f"each of {grid.draws} draws of the dataset"
            raise InputError(
                f"--sizes has {', '.join(map(str, wrong))}; {where} has {usable} training rows{each}: give sizes from 1 to {usable}"
            )
    for key, value in (("seeds", grid.seeds), ("draws", grid.draws)):
        if value < 1:
            raise InputError(f"--{key} is {value}; ask for at least 1")


def protocol_of(config: Config) -> str:
    """The protocol's name: where none is given, equal-steps with `scaling.steps` and equal-epochs without."""
    return config.scaling.protocol or (EQUAL_STEPS if config.scaling.steps is not None else EQUAL_EPOCHS)


def cell_config(base: Config, pool: Pool, cell: Cell) -> Config:
    """The configuration of a cell: its rows, its seed, and the epochs of its protocol."""
    settings, values = base.training, pool.rows_of(cell) | {"training.seed": cell.seed}
    if protocol_of(base) != EQUAL_EPOCHS:
        assert base.scaling.steps is not None
        passes, epochs = _epochs(cell.size, settings.batch_size, base.scaling.steps, settings.epochs)
        warmup = settings.warmup_epochs * epochs / settings.epochs
        values |= {"training.passes": passes, "training.epochs": epochs, "training.warmup_epochs": warmup}
        if protocol_of(base) == TO_CONVERGENCE:
            steps_an_epoch = -(-passes * cell.size // settings.batch_size)
            values["training.patience"] = max(1, round(base.scaling.patience / steps_an_epoch))
    return base.override(values)


@cache
def _epochs(size: int, batch_size: int, steps: int, at_most: int) -> tuple[int, int]:
    """Passes that make an epoch, and epochs, for a number of steps.

    An epoch ends with validation and a checkpoint, after about steps / at_most steps or one pass, whichever is later. Of the numbers of
    passes within a factor of two of that, the one whose whole epochs come closest to the steps.
    """
    ideal = max(1.0, steps * batch_size / (at_most * size))

    def plan(passes: int) -> tuple[int, int]:
        an_epoch = -(-passes * size // batch_size)
        epochs = max(1, round(steps / an_epoch))
        return epochs, abs(epochs * an_epoch - steps)

    passes = min(range(int(np.ceil(ideal / 2)), int(2 * ideal) + 1), key=lambda each: (plan(each)[1], abs(each - ideal)))
    return passes, plan(passes)[0]


def budget_text(config: Config) -> str:
    """What every run of the study is given, for a caption."""
    protocol, scaling = protocol_of(config), config.scaling
    if protocol == EQUAL_STEPS:
        return f"{scaling.steps:,} steps"
    if protocol == EQUAL_EPOCHS:
        return f"{config.training.epochs} epochs"
    return f"until {scaling.patience:,} steps bring no smaller validation loss, at most {scaling.steps:,}"


def protocol_text(config: Config) -> str:
    """The protocol as a sentence, with what it confounds."""
    protocol = protocol_of(config)
    if protocol == EQUAL_STEPS:
        return f"protocol {protocol}: every cell trains {config.scaling.steps:,} steps, to a whole epoch"
    if protocol == EQUAL_EPOCHS:
        return (
            f"protocol {protocol}: every cell trains {config.training.epochs} epochs whatever its size, so smaller ones take fewer "
            "optimiser steps, and the exponent measures optimisation as well as data"
        )
    return f"protocol {protocol}: every cell trains {budget_text(config)}, to a whole epoch"


def check_leakage(dataset: Location, grid: Grid, contestants: list[Contestant], pool: Pool, split: str) -> dict[str, Any]:
    """Count the potentials that the largest cells train on, are selected by and are measured on, by `potential_id`.

    Raises
    ------
    InputError
        Where a potential is in two of these, or in the training rows of two draws.
    """
    kinds = {contestant.config.training.trajectories_per_potential: contestant.config for contestant in contestants}.values()
    trained: list[set[int]] = [set() for _ in range(grid.draws)]
    selecting: set[int] = set()
    for draw in range(grid.draws):
        rows = pool.rows_of(Cell("", max(grid.sizes), 0, draw))
        settings = [config.override(rows).training for config in kinds]
        trained[draw] = set().union(*(_potentials(training_files(dataset, each)) for each in settings))
        selecting |= _potentials(validation_files(dataset, settings[0]))
    measuring = _potentials(list_files(dataset, split))
    everything = set().union(*trained)
    shared = (
        ("training rows of two draws", sum(map(len, trained)) - len(everything)),
        ("training and the validation rows", len(everything & selecting)),
        (f"training rows and split {split!r}", len(everything & measuring)),
    )
    for where, count in shared:
        if count:
            raise InputError(f"{count} potentials are in the {where} of dataset {str(dataset)!r}: a study needs them apart")
    return {"train": [len(each) for each in trained], "val": len(selecting), split: len(measuring), "shared": 0}


def _potentials(files: list[RowFile]) -> set[int]:
    return set(np.concatenate([np.asarray(file.read(["potential_id"]).column("potential_id")) for file in files]).tolist())
