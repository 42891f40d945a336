"""Trajectories made elsewhere become a dataset: checked, divided into splits by potential, and written as shards without certificates.

The source is read twice, some rows at a time: once to check every row and to note its potential, and once to write. In between, the rows
of a shard lie in a file of records. So memory holds one shard and some 50 bytes for each row, whatever the size of the source.

Shapes: R rows.
"""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...physics import InputError
from ...physics.systems import SPLITS, System
from ..config.data import DataConfig
from ..folder_lock import holds_folder
from ..progress import track
from ..storage import Location, Url, locate
from .generation import build_manifest, claim_destination, remove_partial_files, write_manifest
from .imported_rows import ImportedRows, ImportOptions, digest
from .shards import Shard, plan_shards, write_imported_shard
from .sources import open_source

_SHARD_ROWS, _SHARD_VALUES = 5000, 1 << 26  # rows of a file, fewer where they are long: a shard is in memory whole


@holds_folder("destination", "destination")
def import_dataset(source: Path, destination: Location, options: ImportOptions | None = None) -> dict[str, Any]:
    """Write the trajectories of a file as a dataset to `destination`; returns its manifest.

    Equal sensors are one potential, unless there is a column `potential_id`, and no potential is in two splits. The order of the rows in a
    split is random but for those of one potential, which follow each other. Run again, the command completes what is missing or damaged.

    Raises
    ------
    InputError
        For a source that cannot be read, lacks a column, or has a row that is no trajectory of the system; and where `destination` holds
        anything else.
    """
    options = options or ImportOptions()
    rows = ImportedRows(open_source(source), options)
    survey = _survey(rows)
    order = _divide(survey, options)
    config = _describe(rows, survey, order, options)
    destination = locate(destination).absolute()
    shards = plan_shards(config)
    lines = claim_destination(destination, config)
    missing = [shard for shard in shards if shard.file not in lines]
    try:
        with tempfile.TemporaryDirectory() if isinstance(destination, Url) else nullcontext(destination) as scratch:
            lines |= _write(rows, survey, order, config, destination, Path(scratch), missing)
    finally:
        remove_partial_files(destination)
    manifest = build_manifest(config, [lines[shard.file] for shard in shards]) | {"imported": rows.record}
    write_manifest(destination, manifest)
    return manifest


class _Survey(NamedTuple):
    """What the first reading found: R rows by potential and split, their shapes, and their initial state where all have the same."""

    potential_keys: np.ndarray  # (R,)
    splits: np.ndarray | None  # (R,)
    sensors: tuple[int, ...]
    num_times: int
    row_values: int
    initial_state: tuple[Any, Any] | None


def _survey(rows: ImportedRows) -> _Survey:
    keys, splits, state, is_single = [], [], None, True
    columns: dict[str, np.ndarray] = {}
    for block in rows:
        columns = block.columns
        keys.append(block.potential_keys)
        splits.append(block.splits)
        starts = np.concatenate([columns[name].reshape(len(columns[name]), -1) for name in ("q0", "p0")], axis=1)
        state = starts[0] if state is None else state
        is_single = is_single and bool((starts == state).all())
    assert state is not None
    one_state = tuple(tuple(map(float, half)) for half in np.split(state, 2)) if is_single else None
    sensors = next(iter(columns[name].shape[-rows.system.degrees_of_freedom :] for name in rows.system.fields))
    values = sum(int(np.prod(columns[name].shape[1:])) for name in (*rows.system.fields, "times", "q", "p"))
    joined = None if splits[0] is None else np.concatenate([one for one in splits if one is not None])
    return _Survey(np.concatenate(keys), joined, tuple(map(int, sensors)), columns["times"].shape[1], values, one_state)  # type: ignore[arg-type]


class _Order(NamedTuple):
    """Where R rows go: their split, as a number, and their place in it; and the number of the first row with the same potential."""

    splits: np.ndarray
    places: np.ndarray
    potential_ids: np.ndarray

    def counts(self) -> dict[str, int]:
        return {name: int((self.splits == number).sum()) for number, name in enumerate(SPLITS)}


def _divide(survey: _Survey, options: ImportOptions) -> _Order:
    """Give every row a split and a place. Potentials are ordered by a hash of seed and potential: a shuffle that the order of the rows in
    the source does not change.
    """
    unique, first_rows, owners = np.unique(survey.potential_keys, return_index=True, return_inverse=True)
    shuffled = np.argsort(np.array([digest(key, options.seed) for key in unique.tolist()], dtype="S16"), kind="stable")
    rank = np.empty(len(unique), dtype=np.int64)
    rank[shuffled] = np.arange(len(unique))
    if survey.splits is None:
        splits = _split_by_fractions(np.bincount(owners)[shuffled], options)[rank][owners]
    else:
        splits = survey.splits
        for row in np.flatnonzero(splits != splits[first_rows[owners]])[:1]:
            other = first_rows[owners[row]]
            raise InputError(
                f"rows {other} and {row} have the same potential but are in splits {SPLITS[splits[other]]!r} and {SPLITS[splits[row]]!r}; "
                "put all trajectories of a potential into one split"
            )
    order = np.lexsort((np.arange(len(owners)), rank[owners], splits))
    places = np.empty(len(owners), dtype=np.int64)
    begins = np.searchsorted(splits[order], np.arange(len(SPLITS)))
    places[order] = np.arange(len(order)) - begins[splits[order]]
    return _Order(splits, places, first_rows[owners])


def _split_by_fractions(rows: np.ndarray, options: ImportOptions) -> np.ndarray:
    """The splits, as numbers, of potentials with these numbers of rows: first those of test, then of val, and train has the rest."""
    if not (options.val >= 0.0 and options.test >= 0.0 and options.val + options.test < 1.0):
        raise InputError(f"--val and --test are {options.val:g} and {options.test:g}; give fractions from 0 on, together below 1")
    splits = np.zeros(len(rows), dtype=np.int64)
    begin = 0
    for number, fraction in ((2, options.test), (1, options.val)):
        if fraction > 0.0:
            reached = np.cumsum(rows[begin:])
            end = begin + 1 + int(np.searchsorted(reached, round(fraction * rows.sum())))
            splits[begin:end] = number
            begin = end
    if begin >= len(rows):
        raise InputError(f"there are {len(rows)} different potentials, too few for the splits; give more, or --val 0 or --test 0")
    return splits


def _describe(rows: ImportedRows, survey: _Survey, order: _Order, options: ImportOptions) -> DataConfig:
    """The section `data` that stands for the rows."""
    values = {
        "system": options.system,
        "ensemble": {
            "name": "imported",
            "content": rows.content_hash,
            "initial_state": survey.initial_state,
        },
        "sensors": survey.sensors[0] if len(set(survey.sensors)) == 1 else survey.sensors,
        "times": survey.num_times,
        "shard_rows": max(1, min(_SHARD_ROWS, _SHARD_VALUES // survey.row_values)),
        **{key: getattr(options, key) for key in ("seed", "noise", "dtype")},
        **order.counts(),
    }
    try:
        return DataConfig.model_validate(values)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        problem = error.errors()[0]  # type: ignore[attr-defined]
        place = problem["loc"][0] if problem["loc"] else "source"
        received = f" is {values[place]!r}" if place in values else ""
        raise InputError(f"{place}{received}; {problem['msg'].removeprefix('Value error, ')}") from None


def _write(
    rows: ImportedRows, survey: _Survey, order: _Order, config: DataConfig, destination: Location, scratch: Path, shards: list[Shard]
) -> dict[str, dict[str, Any]]:
    """Make these shards; their manifest lines by file. First the rows go to files of records in `scratch`, one for each shard."""
    if not shards:
        return {}
    spools = {shard: scratch / shard.split / f".{Path(shard.file).name}.records.partial" for shard in shards}
    by_place = {(SPLITS.index(shard.split), shard.start // config.shard_rows): spool for shard, spool in spools.items()}
    for spool in spools.values():
        spool.parent.mkdir(parents=True, exist_ok=True)
    first = 0
    record_type: np.dtype | None = None
    with track("import", len(survey.potential_keys) + len(shards)) as progress:
        for block in rows:
            numbers = np.arange(first, first + len(block.potential_keys))
            if not np.array_equal(block.potential_keys, survey.potential_keys[numbers]):
                raise InputError(f"source {str(rows.source.path)!r} changed while it was read; run import again")
            columns = _complete(rows.system, block.columns) | {
                "trajectory_id": numbers,
                "potential_id": order.potential_ids[numbers],
                "place": order.places[numbers],
            }
            record_type = np.dtype([(name, array.dtype, array.shape[1:]) for name, array in columns.items()])
            records = np.empty(len(numbers), record_type)
            for name, array in columns.items():
                records[name] = array
            targets = np.stack([order.splits[numbers], order.places[numbers] // config.shard_rows], axis=1)
            for target in np.unique(targets, axis=0):
                if (spool := by_place.get((int(target[0]), int(target[1])))) is not None:
                    with spool.open("ab") as stream:
                        records[(targets == target).all(axis=1)].tofile(stream)
            first += len(numbers)
            progress.advance(len(numbers))
        lines = {}
        for shard, spool in spools.items():
            assert record_type is not None
            records = np.fromfile(spool, record_type)
            records = records[np.argsort(records["place"])]
            lines[shard.file] = write_imported_shard(config, destination, shard, {name: records[name] for name in record_type.names or ()})
            spool.unlink()
            progress.advance(1)
    return lines


def _complete(system: System, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns with those that follow from them: the energy and its drift in V interpolated between the sensors, and no certificate."""
    stored = {name: columns[name].astype(np.float64) for name in (*system.fields, "q", "p")}
    hamiltonians = system.from_sensors({name: stored[name] for name in system.fields})
    q0, p0 = columns["q0"], columns["p0"]
    return columns | {
        "energy": hamiltonians.energy(q0, p0),
        "energy_drift": system.energy_drift(hamiltonians, q0, p0, stored["q"], stored["p"]),
        "integration_error": np.full(len(q0), np.nan),
    }
