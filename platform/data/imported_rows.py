"""The rows of a source of trajectories, checked as they are read: what is no trajectory of the system is refused by row and column.

Shapes: B rows in a block, S sensors, T query times, d degrees of freedom.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

from ...physics import InputError
from ...physics.systems import SPLITS, Names, System, get_system
from ..provenance import hash_file, hash_json
from .sources import Source

_ROWS_AT_ONCE = 256
_START_TOLERANCE = 1e-4  # by which q and p at t = 0 may differ from q0 and p0
_DOMAIN_TOLERANCE = 1e-3  # of the domain's width
_SPLIT_NAMES = {"train": 0, "val": 1, "validation": 1, "valid": 1, "test": 2}


@dataclass(frozen=True)
class ImportOptions:
    """How a source is read.

    Attributes
    ----------
    system
        The Hamiltonian system of the rows.
    columns
        What the source calls its columns, by what they are called here: the system's fields, times, q, p, q0, p0, potential_id, split.
    until
        Where there is no column of times: they are uniform from 0 to this.
    val, test
        Fractions of the rows, where there is no column of splits.
    seed
        Of the division into splits, and of the order of rows.
    noise
        Standard deviation of the noise that is in the fields.
    dtype
        Of the tensor columns.
    """

    system: str = "well"
    columns: Mapping[str, str] = field(default_factory=dict)
    until: float | None = None
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    noise: float = 0.0
    dtype: str = "float32"


class RowBlock(NamedTuple):
    """B checked rows, in the types in which they are stored."""

    columns: dict[str, np.ndarray]  # fields, times, q, p, q0, p0
    potential_keys: np.ndarray  # (B,) of 16 bytes
    splits: np.ndarray | None  # (B,), numbers as in SPLITS


class ImportedRows:
    """The rows of a source, checked as they are read; iterating begins anew each time."""

    def __init__(self, source: Source, options: ImportOptions) -> None:
        self.source, self.options = source, options
        self.system = get_system(options.system, "--system")
        self.columns = self._find_columns()
        shared = source.shared(self.columns["times"]) if "times" in self.columns else None
        self._times = shared  # of all rows; those of --until are known once there is a row
        self.record = {
            "source": source.path.name,
            "sha256": hash_file(source.path),
            **{key: value for key, value in asdict(options).items() if key in ("until", "val", "test")},
            "columns": self.columns,
        }

    @property
    def content_hash(self) -> str:
        """Of the bytes of the source, whatever its name, and of all that decides how they are read."""
        return hash_json({key: value for key, value in self.record.items() if key != "source"})

    def _find_columns(self) -> dict[str, str]:
        source, options = self.source, self.options
        needed, optional = [*self.system.fields, "q", "p"], ["times", "q0", "p0"]
        given = dict(options.columns)
        unknown = given.keys() - {*needed, *optional, "potential_id", "split"}
        if unknown:
            allowed = ", ".join([*needed, *optional, "potential_id", "split"])
            raise InputError(f"--column has {sorted(unknown)[0]!r} before the equals sign; choose one of {allowed}")
        found = {role: source.require(given.get(role, role), role) for role in needed}
        found |= {role: source.require(name, role) for role, name in given.items() if role not in found}
        found |= {role: role for role in optional if role not in found and role in source.columns}
        if options.until is not None and "times" in found:
            raise InputError(f"--until is {options.until:g}, and column {found['times']!r} holds the times; give one of them")
        if options.until is None and "times" not in found:
            source.require("times", "times")
        if ("q0" in found) != ("p0" in found):
            given_one, other = ("q0", "p0") if "q0" in found else ("p0", "q0")
            raise InputError(
                f"column {found[given_one]!r} holds {given_one}, and there is none for {other}; name it with --column {other}=NAME"
            )
        return found

    def __iter__(self) -> Iterator[RowBlock]:
        read = {role: name for role, name in self.columns.items() if not (role == "times" and self._times is not None)}
        text = {read[role] for role in ("split", "potential_id") if role in read}
        first, sizes = 0, {}
        for block in self.source.read(list(dict.fromkeys(read.values())), _ROWS_AT_ONCE, text):
            values = {role: block[name] for role, name in read.items()}
            if not len(values["q"]):
                continue
            for role, array in values.items():  # blocks of a ragged column may each be rectangular
                expected = sizes.setdefault(role, array.shape[1:])
                if expected != array.shape[1:]:
                    received = f"{read[role]}[{first}] has {_counted(array.shape[1:])} values"
                    raise InputError(f"{received}, and the rows before it {_counted(expected)}; give all as many")
            yield self._check(values, first)
            first += len(values["q"])
        if first == 0:
            raise InputError(f"source {str(self.source.path)!r} has no rows; give at least one trajectory for each split")

    def _check(self, values: dict[str, np.ndarray], first: int) -> RowBlock:
        """The rows of a block in their shapes and types; InputError names the first that is no trajectory of the system."""
        fields, states = self._shape_fields(values), self._shape_states(values, first)
        columns = fields | states
        self._refuse_not_finite(columns, first)
        self._check_motion(columns, first)
        columns |= {name: columns[name].astype(self.options.dtype) for name in (*fields, "times", "q", "p")}
        self._check_problems(columns, first)
        return RowBlock(columns, self._read_potentials(values, columns, first), self._read_splits(values, first))

    def _shape_states(self, values: dict[str, np.ndarray], first: int) -> dict[str, np.ndarray]:
        """times (B, T), q and p (B, T) or (B, T, d), q0 and p0 (B,) or (B, d)."""
        names, dims = self.columns, self.system.degrees_of_freedom
        times = self._read_times(values, first)
        along, at_start = (times.shape[1],) if dims == 1 else (times.shape[1], dims), () if dims == 1 else (dims,)
        what = "query times" if dims == 1 else "query times and coordinates"
        states = {role: _reshape(values[role], along, names[role], what) for role in ("q", "p")}
        if "q0" in names:
            starts = {role: _reshape(values[role], at_start, names[role], "coordinates") for role in ("q0", "p0")}
        else:
            for row in np.flatnonzero(times[:, 0] != 0.0)[:1]:
                raise InputError(
                    f"times[{first + row}] begins at {times[row, 0]:g}; give the initial states in columns q0 and p0, or times from 0 on"
                )
            starts = {"q0": states["q"][:, 0], "p0": states["p"][:, 0]}
        return {"times": times} | states | starts

    def _refuse_not_finite(self, columns: dict[str, np.ndarray], first: int) -> None:
        for role, array in columns.items():
            bad = np.argwhere(~np.isfinite(array))
            if bad.size:
                row, *place = bad[0].tolist()
                where = "".join(f"[{index}]" for index in [first + row, *place])
                raise InputError(
                    f"{self.columns.get(role, role)}{where} is {array[tuple(bad[0])]}; all numbers must be finite: leave the row out"
                )

    def _check_problems(self, columns: dict[str, np.ndarray], first: int) -> None:
        """Refuse a potential and an initial state that are none of the system's."""
        system, fields = self.system, {name: columns[name].astype(np.float64) for name in self.system.fields}
        roles = (next(iter(fields)), "q0", "p0", "times")
        called = [Names(*(f"{self.columns.get(role, role)}[{first + row}]" for role in roles)) for row in range(len(columns["q"]))]
        system.check_potential(fields, called)
        hamiltonians = system.from_sensors(fields)
        # That the particle stays in the domain, the trajectory shows; V between few sensors is too uncertain to tell.
        System.check_initial_state(system, hamiltonians, columns["q0"], columns["p0"], called)
        for row in np.flatnonzero(~(system.energy_scale(hamiltonians) > 0.0))[:1]:
            raise InputError(f"{called[row].potential} is flat: {system.energy_scale_name} is not above 0; leave the row out")

    def _read_potentials(self, values: dict[str, np.ndarray], columns: dict[str, np.ndarray], first: int) -> np.ndarray:
        """What rows with the same potential share, (B,) of 16 bytes."""
        if "potential_id" not in values:
            keys = [b"".join(columns[name][row].tobytes() for name in self.system.fields) for row in range(len(columns["q"]))]
        else:
            keys = [None if key is None else str(key).encode() for key in values["potential_id"]]
        for row in np.flatnonzero([key is None for key in keys])[:1]:
            raise InputError(f"{self.columns['potential_id']}[{first + row}] is missing; give every row the name of its potential")
        return np.array([digest(key or b"") for key in keys], dtype="S16")

    def _shape_fields(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: self._shape_field(values[name], name) for name in self.system.fields}

    def _shape_field(self, values: np.ndarray, name: str) -> np.ndarray:
        """A field of B rows in the shape of `Hamiltonians.sense`. A list for a grid is a square, whose last axis runs fastest."""
        channels, axes, called = self.system.fields[name], self.system.degrees_of_freedom, self.columns[name]
        wanted = axes + (channels > 1)
        if values.ndim == 2 and wanted > 1:
            side = round((values.shape[1] / channels) ** (1 / axes))
            if side**axes * channels != values.shape[1]:
                raise InputError(
                    f"column {called!r} has {values.shape[1]} values a row, no square grid; give an array with {wanted} axes a row"
                )
            values = values.reshape(len(values), *([channels] if channels > 1 else []), *[side] * axes)
        if values.ndim != 1 + wanted or (channels > 1 and values.shape[1] != channels):
            raise InputError(
                f"column {called!r} has the shape {_counted(values.shape[1:])} a row; give V at the sensors, {wanted} axes a row"
            )
        if min(values.shape[-axes:]) < self.system.fewest_sensors:
            count = _counted(values.shape[-axes:])
            raise InputError(f"column {called!r} has {count} sensors; give at least {self.system.fewest_sensors} on each axis")
        return values

    def _read_times(self, values: dict[str, np.ndarray], first: int) -> np.ndarray:
        """(B, T), in ascending order and within the horizon."""
        called = self.columns.get("times", "--until")
        if self._times is None and "times" not in self.columns:
            until = self.options.until
            assert until is not None
            size = values["q"].shape[1] if values["q"].ndim > 2 else int(np.prod(values["q"].shape[1:])) // self.system.degrees_of_freedom
            self._times = np.linspace(0.0, until, size)
        times = values["times"] if self._times is None else np.tile(self._times, (len(values["q"]), 1))
        if times.ndim != 2:
            raise InputError(f"column {called!r} has the shape {_counted(times.shape[1:])} a row; give the query times, one axis a row")
        outside = ~((times >= 0.0) & (times <= self.system.horizon)) & np.isfinite(times)
        for row, place in np.argwhere(outside)[:1]:
            raise InputError(
                f"{called}[{first + row}] has the time {times[row, place]:g}; system {self.system.name!r} has times from 0 to "
                f"{self.system.horizon:g}: cut the trajectories, or rescale time"
            )
        for row in np.flatnonzero((np.diff(times, axis=1) < 0.0).any(axis=1))[:1]:
            raise InputError(f"{called}[{first + row}] is not in ascending order; sort the times of each trajectory, with q and p")
        return times

    def _check_motion(self, columns: dict[str, np.ndarray], first: int) -> None:
        """Refuse q outside the domain, and trajectories that do not begin at q0 and p0."""
        system = self.system
        low, high = np.array(system.domain).T
        margin = _DOMAIN_TOLERANCE * (high - low)
        places = columns["q"].reshape(len(columns["q"]), -1, system.degrees_of_freedom)
        for row, time, axis in np.argwhere((places < low - margin) | (places > high + margin))[:1]:
            raise InputError(
                f"{self.columns['q']}[{first + row}] reaches {places[row, time, axis]:.6g}; the domain of system {system.name!r} is from "
                f"{low[axis]:g} to {high[axis]:g}: rescale the problem, or leave the row out"
            )
        at_start = columns["times"][:, 0] == 0.0
        for role in ("q", "p"):
            gap = np.abs(columns[role][:, 0] - columns[f"{role}0"]).reshape(len(at_start), -1).max(axis=1)
            for row in np.flatnonzero(at_start & (gap > _START_TOLERANCE))[:1]:
                raise InputError(
                    f"{self.columns[role]}[{first + row}] begins {gap[row]:.3g} away from {role}0 at t = 0; correct one of the two columns"
                )

    def _read_splits(self, values: dict[str, np.ndarray], first: int) -> np.ndarray | None:
        if "split" not in values:
            return None
        labels = values["split"]
        numbers = np.array([_SPLIT_NAMES.get(str(label).strip().lower(), -1) for label in labels])
        for row in np.flatnonzero(numbers < 0)[:1]:
            raise InputError(f"{self.columns['split']}[{first + row}] is {labels[row]!r}; choose one of {', '.join(SPLITS)}")
        return numbers


def _reshape(values: np.ndarray, shape: tuple[int, ...], name: str, what: str) -> np.ndarray:
    """Rows in a shape, from arrays of it or from lists with as many numbers."""
    if values.shape[1:] == shape or (values.ndim <= 2 and int(np.prod(values.shape[1:])) == int(np.prod(shape))):
        return values.reshape(len(values), *shape)
    raise InputError(f"column {name!r} has the shape {_counted(values.shape[1:])} a row; there are {_counted(shape)} {what}")


def _counted(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "1"


def digest(content: bytes, seed: int | None = None) -> bytes:
    """16 bytes without a zero at their end, which NumPy would drop."""
    prefix = b"" if seed is None else f"{seed}:".encode()
    return hashlib.blake2b(prefix + content, digest_size=15).digest() + b"\x01"
