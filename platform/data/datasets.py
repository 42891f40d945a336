"""Reading datasets."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics import InputError
from ...physics.systems import SPLITS, Ensemble, Hamiltonians, Imported, System
from ..config.data import DataConfig
from ..storage import READERS, Location, Url, locate
from .manifest import read_config, read_manifest
from .schema import is_imported, state_column, tensor_column


@dataclass(frozen=True, eq=False)
class RowFile:
    """A Parquet file of a dataset, and the numbers of its rows that are wanted, in ascending order."""

    path: Location
    wanted: np.ndarray
    sha256: str
    system: System
    made_by: str = "generate"  # the command that makes the file again

    @property
    def rows(self) -> int:
        """How many rows are wanted."""
        return len(self.wanted)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The wanted rows. InputError where the file is missing, damaged, or not the one that the manifest lists."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"{self.path} is missing; run {self.made_by} again to complete the dataset") from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(
                f"{self.path} is damaged or replaced: its checksum is not the manifest's; run {self.made_by} again to repair the dataset"
            )
        table = pq.read_table(pa.BufferReader(content), columns=columns)
        first, last = int(self.wanted[0]), int(self.wanted[-1])
        return table.slice(first, self.rows) if last - first == self.rows - 1 else table.take(pa.array(self.wanted))


@dataclass(frozen=True)
class TrainingRows:
    """The columns that training reads, in the stored dtype, for d degrees of freedom and C channels of fields."""

    potential: np.ndarray  # fields at the sensors: (N, S), or (N, C, *sensors) for several channels or axes
    times: np.ndarray  # (N, T)
    q: np.ndarray  # (N, T), or (N, T, d)
    p: np.ndarray  # like q
    initial: np.ndarray  # (N, 2 d), q0 then p0

    @classmethod
    def from_table(cls, table: pa.Table, system: System) -> "TrainingRows":
        return cls(**_training_columns(table, system))

    def __len__(self) -> int:
        return len(self.potential)

    @property
    def distinct_times(self) -> np.ndarray:
        """(1, T) where all rows share their query times, so that networks may use it, else (N, T)."""
        return self.times[:1] if np.all(self.times == self.times[:1]) else self.times


@dataclass(frozen=True, repr=False)
class Split(TrainingRows):
    """The rows of a split as arrays, with their Hamiltonians."""

    system: System
    ensemble: Ensemble
    trajectory_id: np.ndarray  # (N,)
    energy: np.ndarray  # (N,)
    integration_error: np.ndarray  # (N,), nan for imported rows
    own: dict[str, Any]  # the system's own columns, as `System.rebuild` takes them; empty for imported rows

    @property
    def has_exact_hamiltonians(self) -> bool:
        """Whether the rows hold what rebuilds their Hamiltonians; imported rows do not."""
        return not isinstance(self.ensemble, Imported)

    @cached_property
    def hamiltonians(self) -> Hamiltonians:
        """The exact Hamiltonians of the N rows, rebuilt from the rows alone when they are first asked for.

        Those of imported rows are interpolated between the sensors.
        """
        if self.has_exact_hamiltonians:
            return self.system.rebuild(self.own)
        return self.system.from_sensors({name: values.astype(np.float64) for name, values in self.fields.items()})

    def __repr__(self) -> str:
        return f"Split({len(self)} rows of system {self.system.name!r}, ensemble {self.ensemble.name!r}, {self.times.shape[1]} query times)"

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """What the sensors read, by the name of the field: (N, *sensors), or (N, channels, *sensors) with several channels."""
        return unstack_fields(self.potential, self.system)


def list_files(
    folder: Location, split: str, max_rows: int | None = None, *, start: int = 0, per_potential: int | None = None
) -> list[RowFile]:
    """The files that hold `max_rows` rows of a split from row `start` on (all by default).

    With `per_potential` they are this many rows of each potential: see `row_numbers`.

    Raises
    ------
    InputError
        For an unknown, empty or short split, a `max_rows` that is not a whole number above 0, or a `start` and a `per_potential` that
        do not fit the potentials.
    """
    manifest = read_manifest(folder)
    config = read_config(manifest)
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    available = manifest["counts"][split]
    if available == 0:
        remedy = f"import it with rows in {split}" if is_imported(config) else f"generate it with --{split} N"
        raise InputError(f"split {split!r} of dataset {str(folder)!r} has no rows; {remedy}")
    if max_rows is not None and (not isinstance(max_rows, int) or max_rows < 1):
        raise InputError(f"max_rows is {max_rows!r}; give a whole number above 0")
    numbers = row_numbers(available, config.distribution.orbits_per_hamiltonian, start, max_rows, per_potential)
    if len(numbers) < (max_rows or 1):
        of = f"split {split!r} from row {start:,} on" if start else f"split {split!r}"
        of += f", {per_potential} of each potential," if per_potential else ""
        raise InputError(f"{max_rows or 1} rows of {of} were asked for; dataset {str(folder)!r} has {len(numbers)}")
    files, first = [], 0
    for line in (line for line in manifest["files"] if line["split"] == split):
        wanted = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, first + line["rows"])] - first
        if wanted.size:
            files.append(RowFile(folder / line["file"], wanted, line["sha256"], config.get_system(), made_by(config)))
        first += line["rows"]
    return files


def made_by(config: DataConfig) -> str:
    """The command that makes a dataset, or makes it again where files are missing or damaged."""
    return "import" if is_imported(config) else "generate"


def row_numbers(available: int, orbits: int, start: int = 0, rows: int | None = None, per_potential: int | None = None) -> np.ndarray:
    """The first `rows` rows of a split from `start` on, as their numbers in ascending order; fewer where it has fewer.

    `orbits` consecutive rows of the `available` ones share a potential. With `per_potential` K, only K rows of each potential count.
    Which K rotates from potential to potential, evenly spaced: where the orbits of a potential differ in kind, as in their energies,
    every kind occurs equally often.

    Raises
    ------
    InputError
        Where `per_potential` is no number from 1 to `orbits`, or with it `start` is not the first row of a potential.
    """
    if per_potential is None:
        return np.arange(start, available if rows is None else min(available, start + rows))
    if not 1 <= per_potential <= orbits:
        raise InputError(f"trajectories_per_potential is {per_potential}; potentials of the dataset have {orbits}: give 1 to {orbits}")
    if start % orbits:
        raise InputError(f"the first row is {start}; with trajectories_per_potential give a multiple of {orbits}, the rows of a potential")
    potentials = np.arange(start // orbits, available // orbits)[: None if rows is None else -(-rows // per_potential)]
    spaced = np.arange(per_potential) * orbits // per_potential
    orbit = np.sort((potentials[:, None] + spaced) % orbits, axis=1)
    return (potentials[:, None] * orbits + orbit).ravel()[:rows]


def read_rows(files: list[RowFile]) -> TrainingRows:
    """The rows of several files of one dataset, in order; InputError as `RowFile.read`."""
    system = files[0].system
    return TrainingRows.from_table(_read_tables(files, training_columns(system)), system)


def _read_tables(files: list[RowFile], columns: list[str] | None = None) -> pa.Table:
    """The wanted rows of all files in order; those of a store are fetched several at a time, as each waits for the network."""
    with ThreadPoolExecutor(READERS if isinstance(files[0].path, Url) else 1) as pool:
        return pa.concat_tables(list(pool.map(lambda file: file.read(columns), files)))


def read_split(folder: str | Location, split: str, max_rows: int | None = None, *, start: int = 0) -> Split:
    """The `max_rows` rows of a split from row `start` on (all by default); InputError as `list_files` and `RowFile.read`.

    `folder` is a path, or a URL such as `"s3://bucket/data"`.
    """
    folder = locate(folder)
    config = read_config(read_manifest(folder))
    system = config.get_system()
    table = _read_tables(list_files(folder, split, max_rows, start=start))
    return Split(
        **_training_columns(table, system),
        **{name: np.asarray(table.column(name)) for name in ("trajectory_id", "energy", "integration_error")},
        own={} if is_imported(config) else read_own_columns(table, system),
        system=system,
        ensemble=config.distribution,
    )


def read_own_columns(table: pa.Table, system: System) -> dict[str, Any]:
    """The system's own columns as `System.rebuild` takes them; a null is nan, or -1 in a column of integers."""
    own: dict[str, Any] = {}
    for column in system.columns:
        values = table.column(column.name)
        if column.kind == "list":
            own[column.name] = [np.array(row) for row in values.to_pylist()]
        else:
            own[column.name] = np.asarray(values.fill_null(-1) if column.kind == "int8" else values)
    return own


def training_columns(system: System) -> list[str]:
    """The names of the columns that training reads."""
    return [*system.fields, "times", "q", "p", "q0", "p0"]


def _training_columns(table: pa.Table, system: System) -> dict[str, np.ndarray]:
    q0, p0 = (state_column(table, name).reshape(len(table), -1) for name in ("q0", "p0"))
    fields = {name: tensor_column(table, name) for name in system.fields}
    states = {name: tensor_column(table, name) for name in ("times", "q", "p")}
    return {"potential": stack_fields(fields, system)} | states | {"initial": np.concatenate([q0, p0], axis=1)}


def stack_fields(fields: dict[str, np.ndarray], system: System) -> np.ndarray:
    """Fields (N, *sensors) or (N, channels, *sensors) as a network reads them: (N, S) for one on a line, else (N, C, *sensors)."""
    if system.degrees_of_freedom == 1 and sum(system.fields.values()) == 1:
        return next(iter(fields.values()))
    parts = [values if system.fields[name] > 1 else values[:, None] for name, values in fields.items()]
    return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def unstack_fields(stacked: np.ndarray, system: System) -> dict[str, np.ndarray]:
    """The fields that `stack_fields` put together, by name."""
    if system.degrees_of_freedom == 1 and sum(system.fields.values()) == 1:
        return {next(iter(system.fields)): stacked}
    fields, first = {}, 0
    for name, channels in system.fields.items():
        part = stacked[:, first : first + channels]
        fields[name] = part if channels > 1 else part[:, 0]
        first += channels
    return fields
