"""Trajectories in files made elsewhere - NumPy, CSV, HDF5, Parquet - as columns, one row for each, read some rows at a time.

In CSV and Parquet a column of arrays may be spread over numbered columns: `q_0`, `q_1`, ... or `q[0]`, `q[1]`, ... are `q`.
"""

import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from ...physics import InputError

Block = dict[str, np.ndarray]  # float64 (B, ...), or text (B,) of dtype object

_NUMBERED = re.compile(r"(.+?)(?:_(\d+)|\.(\d+)|\[(\d+)\])")
_CSV_BLOCK_BYTES = 1 << 22  # of text parsed at once; a line must fit
_LONGEST_LIST = 12  # names in a message


class Source(ABC):
    """A file of trajectories. `columns` describes its columns by name, for messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[str, str] = {}

    @abstractmethod
    def read(self, names: Sequence[str], rows: int, text: Collection[str] = ()) -> Iterator[Block]:
        """Blocks of about `rows` rows of these columns, in order; those in `text` as str, all others as numbers.

        Raises
        ------
        InputError
            For a column whose rows differ in length, or hold what is no number.
        """

    def shared(self, name: str) -> np.ndarray | None:
        """A column that holds one row for all, (T,); None where it has a row for each."""
        return None

    def require(self, name: str, role: str) -> str:
        """`name`, if there is such a column; InputError, which lists those that there are, if not."""
        if name not in self.columns:
            listed = ", ".join(f"{column} ({kind})" for column, kind in list(self.columns.items())[:_LONGEST_LIST])
            more = ", ..." if len(self.columns) > _LONGEST_LIST else ""
            renaming = f"name the one that holds it with --column {role}=NAME"
            raise InputError(f"source {str(self.path)!r} has no column {name!r}; it has {listed or 'none'}{more}: {renaming}")
        return name


def open_source(path: Path) -> Source:
    """The source of a file, by its suffix; InputError where it cannot be read."""
    kinds: dict[str, Callable[[Path], Source]] = {
        ".npz": _Npz, ".csv": _Csv, ".parquet": _Parquet, ".pq": _Parquet, ".h5": _Hdf5, ".hdf5": _Hdf5,
    }  # fmt: skip
    if path.suffix.lower() not in kinds:
        raise InputError(f"source is {str(path)!r}; its suffix must be one of {', '.join(kinds)}")
    if not path.is_file():
        raise InputError(f"source {str(path)!r} {'is no file' if path.exists() else 'does not exist'}; give a file of trajectories")
    try:
        return kinds[path.suffix.lower()](path)
    except (OSError, pa.ArrowException, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"source {str(path)!r} cannot be read: {_first_line(error)}; check that it is whole") from None


class _Arrays(Source):
    """Columns that are arrays with the rows on their first axis."""

    _shapes: dict[str, tuple[int, ...]]

    @abstractmethod
    def _blocks(self, name: str, rows: int) -> Iterator[np.ndarray]: ...

    def shared(self, name: str) -> np.ndarray | None:
        if len(self._shapes[name]) != 1:
            return None
        return np.concatenate([_as_numbers(block, name, 0) for block in self._blocks(name, 1 << 16)])

    def read(self, names: Sequence[str], rows: int, text: Collection[str] = ()) -> Iterator[Block]:
        counts = {name: self._shapes[name][0] if self._shapes[name] else 1 for name in names}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise InputError(f"source {str(self.path)!r} has {listed}; every column needs as many rows, one for each trajectory")
        first = 0
        for blocks in zip(*(self._blocks(name, rows) for name in names), strict=True):
            parts = zip(names, blocks, strict=True)
            yield {name: _as_text(block) if name in text else _as_numbers(block, name, first) for name, block in parts}
            first += len(blocks[0])


class _Npz(_Arrays):
    """Arrays of an .npz file, read from the archive piece by piece; nothing in it is unpickled."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._shapes = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    shape, _, dtype = _read_npy_header(stream)
                if not dtype.hasobject:
                    name = member.removesuffix(".npy")
                    self._shapes[name], self.columns[name] = shape, f"{dtype} {list(shape)}"

    def _blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as stream:
            shape, is_fortran, dtype = _read_npy_header(stream)
            count, rest = (shape[0], shape[1:]) if shape else (1, ())
            if is_fortran and rest:  # its rows do not lie together
                whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
                yield from (whole[start : start + rows] for start in range(0, count, rows))
                return
            row_bytes = dtype.itemsize * int(np.prod(rest))
            for start in range(0, count, rows):
                size = min(rows, count - start)
                yield np.frombuffer(stream.read(size * row_bytes), dtype).reshape(size, *rest)


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return reader(stream)


class _Hdf5(_Arrays):
    """Datasets of an HDF5 file, those in groups by their path."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import h5py  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError(
                f"source {str(path)!r} is HDF5, which needs h5py; run `pip install 'neural-hamilton[hdf5]'`, or save it as .npz"
            ) from None
        self._open = lambda: h5py.File(path, "r")
        self._shapes = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                self._shapes[name], self.columns[name] = tuple(item.shape), f"{item.dtype} {list(item.shape)}"

        with self._open() as file:
            file.visititems(note)

    def _blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        with self._open() as file:
            dataset: Any = file[name]  # `columns` has datasets only
            for start in range(0, dataset.shape[0], rows):
                yield dataset[start : start + rows]


class _Table(Source):
    """A table in batches of Arrow."""

    def __init__(self, path: Path, kinds: dict[str, str]) -> None:
        super().__init__(path)
        self._parts = _group_numbered(list(kinds))
        self.columns = {
            name: kinds[parts[0]] if parts == [name] else f"{len(parts)} numbered columns" for name, parts in self._parts.items()
        }

    @abstractmethod
    def _batches(self, columns: list[str], rows: int, text: Collection[str]) -> Iterator[pa.RecordBatch]: ...

    def read(self, names: Sequence[str], rows: int, text: Collection[str] = ()) -> Iterator[Block]:
        wanted = [part for name in names for part in self._parts[name]]
        first = 0
        try:
            for batch in self._batches(wanted, rows, text):
                yield {name: self._block(batch, name, first, name in text) for name in names}
                first += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"source {str(self.path)!r} cannot be read after row {first}: {_first_line(error)}; correct it") from None

    def _block(self, batch: pa.RecordBatch, name: str, first: int, is_text: bool) -> np.ndarray:
        parts = self._parts[name]
        if is_text:
            return np.array([None if value is None else str(value) for value in batch.column(parts[0]).to_pylist()], dtype=object)
        if parts != [name]:
            return np.stack([_flat_numbers(batch.column(part), part, first) for part in parts], axis=1)
        return _array_of(batch.column(name), name, first)


class _Csv(_Table):
    """A line of names, then a line for each trajectory."""

    def __init__(self, path: Path) -> None:
        with pc.open_csv(path, read_options=pc.ReadOptions(block_size=_CSV_BLOCK_BYTES)) as reader:
            super().__init__(path, {field.name: str(field.type) for field in reader.schema})

    def _batches(self, columns: list[str], rows: int, text: Collection[str]) -> Iterator[pa.RecordBatch]:
        text_columns = {part for name in text for part in self._parts[name]}
        # Types by what is wanted: by the first lines alone, 1 would make a column of whole numbers.
        types = {column: pa.string() if column in text_columns else pa.float64() for column in columns}
        convert = pc.ConvertOptions(include_columns=columns, column_types=types)
        with pc.open_csv(self.path, read_options=pc.ReadOptions(block_size=_CSV_BLOCK_BYTES), convert_options=convert) as reader:
            for batch in reader:
                yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


class _Parquet(_Table):
    def __init__(self, path: Path) -> None:
        super().__init__(path, {field.name: str(field.type)[:60] for field in pq.read_schema(path)})

    def _batches(self, columns: list[str], rows: int, text: Collection[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns)


def _group_numbered(columns: list[str]) -> dict[str, list[str]]:
    """The columns of a table by name: numbered ones, complete from 0 or 1 on, go together in their order."""
    groups: dict[str, dict[int, str]] = {}
    for column in columns:
        if (match := _NUMBERED.fullmatch(column)) is not None:
            groups.setdefault(match[1], {})[int(next(filter(None, match.groups()[1:])))] = column
    whole = {
        stem: [parts[number] for number in sorted(parts)]
        for stem, parts in groups.items()
        if len(parts) > 1 and stem not in columns and sorted(parts) in (list(range(len(parts))), list(range(1, len(parts) + 1)))
    }
    grouped = {part for parts in whole.values() for part in parts}
    return {column: [column] for column in columns if column not in grouped} | whole


def _array_of(column: Any, name: str, first: int) -> np.ndarray:
    """A column of numbers (B,), of lists (B, N) or of lists of lists (B, N, d)."""
    shape: list[int] = []
    count = len(column)
    if isinstance(column.type, pa.FixedShapeTensorType):
        shape, column = list(column.type.shape), column.storage
        if column.null_count:
            raise InputError(f"{name}[{first + _first_null(column)}] is missing; give every row its numbers")
        return _flat_numbers(column.flatten(), name, first).reshape(count, *shape)
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        if column.null_count:
            row = _first_null(column) // max(1, int(np.prod(shape)))
            raise InputError(f"{name}[{first + row}] is missing; give every row its numbers")
        lengths = np.asarray(column.value_lengths())
        if (lengths != lengths[:1]).any():
            other = int(np.flatnonzero(lengths != lengths[0])[0])
            row = other // max(1, int(np.prod(shape)))
            raise InputError(f"{name}[{first + row}] has {lengths[other]} values, and the row before it {lengths[0]}; give all as many")
        shape.append(int(lengths[0]) if lengths.size else 0)
        column = column.flatten()
    return _flat_numbers(column, name, first, int(np.prod(shape)) if shape else 1).reshape(count, *shape)


def _flat_numbers(column: Any, name: str, first: int, per_row: int = 1) -> np.ndarray:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"column {name!r} has the type {str(column.type)[:60]}; give numbers")
    if column.null_count:
        raise InputError(f"{name}[{first + _first_null(column) // max(1, per_row)}] is missing; give every row its numbers")
    return column.to_numpy(zero_copy_only=False).astype(np.float64)


def _first_null(column: Any) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])


def _as_numbers(block: np.ndarray, name: str, first: int) -> np.ndarray:
    if block.dtype.kind not in "fiu":
        raise InputError(f"column {name!r} has the type {block.dtype}; give numbers")
    return block.astype(np.float64)


def _as_text(block: np.ndarray) -> np.ndarray:
    plain = [value.decode() if isinstance(value, bytes) else str(value) for value in block.tolist()]
    return np.array(plain, dtype=object)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
