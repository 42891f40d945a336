"""Batches as Arrow streams: the binary form of POST /v1/trajectories, for server and client. What comes in is not trusted.

Columns become NumPy arrays once, and a row is a slice of them. A null stands for a part that was not given.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..physics import InputError
from ..physics.systems import System
from .motion import Motion, MotionProblem
from .orbit import TRUST_FIELDS, Orbit
from .problems import Problem
from .schema import MAX_POINTS_OF_A_TABLE, MAX_TRAJECTORIES, PARTS, as_problem, check_parts

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_WORDS = ("source", "verdict")  # of the fields of `Trust`; the others are numbers
_COMPRESSION = 3  # the field of a RecordBatch in Message.fbs

_MAX_VALUES = 1_000_000  # of one list; more than any model reads
_MAX_PARAMETERS = 100
_MOTION = {"energy": pa.float64(), "period": pa.float64(), "turning_points": pa.list_(pa.float64(), 2)}

_Rows = list[Any]  # one value for each row of a column; None where it is null


def read_problems(body: bytes, system: System) -> list[Problem | MotionProblem]:
    """The problems in the rows of a stream with the columns of `schema.PARTS`, all optional, as `TrajectoryRequest` describes them.

    With d > 1 degrees of freedom, a potential is the list of V at all sensors, the last coordinate running fastest, or a tensor;
    q0 and p0 are lists of d numbers. `table` is a list of pairs; `parameters` is a map from names to numbers, or a struct of numbers.

    Raises
    ------
    InputError
        For anything that is not a complete, uncompressed Arrow stream of 1 to 1,024 such rows.
    """
    table = _read_table(body)
    names = table.column_names
    if len(set(names)) != len(names) or not set(names) <= set(PARTS) or not set(names) & {"potential", "expression", "table"}:
        listed = ", ".join(names)[:200] or "none"
        raise InputError(f"columns are {listed}; send potential, expression or table and, if wanted, {', '.join(PARTS[3:])}, each once")
    if not 1 <= table.num_rows <= MAX_TRAJECTORIES:
        raise InputError(f"trajectories has {table.num_rows} rows; send 1 to {MAX_TRAJECTORIES}")
    columns = {name: _read_column(table, name, system) for name in names}
    problems, fitting = [], set()  # of parts, by name: what fits together in one row does in all
    for index, row in enumerate(zip(*columns.values(), strict=True)):
        given = {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        if (parts := tuple(given)) not in fitting:
            try:
                check_parts(given)
            except ValueError as error:
                raise InputError(f"trajectories[{index}]: {error}") from None
            fitting.add(parts)
        problems.append(as_problem(given, index))
    return problems


def write_problems(problems: Sequence[Mapping[str, Any]]) -> bytes:
    """A request with one row for each problem, given by its parts as `read_problems` takes them; arrays may have any shape.

    Every problem with a `potential` has as many sensors; q0 and p0 are numbers, or d numbers each.
    """
    columns = {}
    for name in PARTS:
        values = [problem.get(name) for problem in problems]
        if any(value is not None for value in values):
            columns[name] = _WRITERS[name](values)
    return _write_table(pa.table(columns))


def write_orbits(predicted: Sequence[Orbit | Motion], system: System) -> bytes:
    """The response: the columns times, q, p, and those of `Trust`.

    Where any problem is in units of its own, there are also energy, period and turning_points, null for the others.
    """
    width = 1 if system.degrees_of_freedom == 1 else system.degrees_of_freedom
    columns = {
        "times": _write_lists([one.times for one in predicted]),
        **{name: _write_lists([getattr(one, name) for one in predicted], width) for name in ("q", "p")},
        **{
            name: pa.array([getattr(one.trust, name) for one in predicted], pa.string() if name in _WORDS else pa.float64())
            for name in TRUST_FIELDS
        },
    }
    if any(isinstance(one, Motion) for one in predicted):
        columns |= {
            name: pa.array([getattr(one, name) if isinstance(one, Motion) else None for one in predicted], kind)
            for name, kind in _MOTION.items()
        }
    complete = {"times", "q", "p", "source"}
    schema = pa.schema([pa.field(name, column.type, nullable=name not in complete) for name, column in columns.items()])
    return _write_table(pa.Table.from_arrays(list(columns.values()), schema=schema))


def read_trajectories(body: bytes) -> list[dict[str, Any]]:
    """The rows of a response as `write_orbits` makes it: times (T,), q and p (T,) or (T, d) as arrays, and the other columns.

    Raises
    ------
    InputError
        Where it is no complete stream with these columns.
    """
    table = _read_table(body)
    missing = [name for name in ("times", "q", "p", "source") if name not in table.column_names]
    if missing:
        raise InputError(f"the response has no column {missing[0]}")
    columns = {name: _read_lists(table, name) for name in ("times", "q", "p")}
    for name, rows in columns.items():
        _refuse_rows(name, rows, lambda row: row is None, "is null")
    columns |= {name: table.column(name).to_pylist() for name in table.column_names if name not in columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _write_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _write_lists(rows: Sequence[np.ndarray | None], width: int = 1) -> pa.Array:
    """Arrays of any length, or None, as lists of numbers; with a width above 1, as lists of that many numbers each."""
    arrays = [np.empty(0) if row is None else np.asarray(row, dtype=np.float64).ravel() for row in rows]
    offsets = np.concatenate([[0], np.cumsum([array.size for array in arrays]) // width])
    values = pa.array(np.concatenate(arrays))
    if width > 1:
        values = pa.FixedSizeListArray.from_arrays(values, width)
    nulls = np.array([row is None for row in rows])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(nulls) if nulls.any() else None)


def _write_states(rows: Sequence[Any]) -> pa.Array:
    width = max(np.size(row) for row in rows if row is not None)
    plain = [None if row is None else np.ravel(row).tolist() for row in rows]
    if width == 1:
        return pa.array([None if row is None else row[0] for row in plain], pa.float64())
    return pa.array(plain, pa.list_(pa.float64(), width))


_WRITERS: dict[str, Callable[[Sequence[Any]], pa.Array]] = {
    "potential": _write_lists,
    "expression": lambda rows: pa.array(rows, pa.string()),
    "table": lambda rows: _write_lists(rows, 2),
    "domain": lambda rows: pa.array(rows, pa.list_(pa.float64(), 2)),
    "parameters": lambda rows: pa.array([None if row is None else list(row.items()) for row in rows], pa.map_(pa.string(), pa.float64())),
    "mass": lambda rows: pa.array(rows, pa.float64()),
    "q0": _write_states,
    "p0": _write_states,
    "times": _write_lists,
}


def _read_table(body: bytes) -> pa.Table:
    try:
        _refuse_compression(body)
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)  # offsets that point outside the body would otherwise be followed
        return table
    except (pa.ArrowException, OSError, EOFError, MemoryError, ValueError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"body is not a complete Arrow stream: {reason}") from None


def _refuse_compression(body: bytes) -> None:
    """A few compressed kilobytes can unpack to any size, and Arrow unpacks before it can be asked how much."""
    source = pa.BufferReader(body)
    while source.tell() < len(body):
        try:
            message = pa.ipc.read_message(source)
        except EOFError:  # the end mark of the stream
            return
        if message.type == "dictionary":
            raise InputError("body has dictionary-encoded columns; send plain numbers")
        if message.type == "record batch" and _is_compressed(message.metadata.to_pybytes()):
            raise InputError("body has compressed buffers; send an uncompressed Arrow stream")


def _is_compressed(metadata: bytes) -> bool:
    """Whether the flatbuffer Message of a record batch names a compression."""
    (message,) = struct.unpack_from("<I", metadata, 0)
    header = _flatbuffer_field(metadata, message, 2)
    if header is None:
        raise InputError("body has a record batch without a header")
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _flatbuffer_field(metadata, batch, _COMPRESSION) is not None


def _flatbuffer_field(buffer: bytes, table: int, index: int) -> int | None:
    """Where field `index` of a flatbuffer table lies, or None where it is absent."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    (size,) = struct.unpack_from("<H", buffer, vtable)
    slot = 4 + 2 * index
    offset = struct.unpack_from("<H", buffer, vtable + slot)[0] if slot < size else 0
    return table + offset if offset else None


def _read_column(table: pa.Table, name: str, system: System) -> _Rows:
    if pa.types.is_null(table.column(name).type):
        return [None] * table.num_rows
    if name == "expression":
        return _read_text(table, name)
    if name == "parameters":
        return _read_parameters(table, name)
    if name == "mass" or (name in ("q0", "p0") and system.degrees_of_freedom == 1):
        return _read_numbers(table, name)
    rows = _read_lists(table, name, MAX_POINTS_OF_A_TABLE if name == "table" else _MAX_VALUES)
    if name == "table":
        _refuse_rows(name, rows, lambda row: row is not None and row.shape[1:] != (2,), "does not hold pairs; send pairs of x and U")
    if name == "domain":
        _refuse_rows(
            name, rows, lambda row: row is not None and row.shape != (2,), "does not have two numbers; send the ends of an interval"
        )
        _refuse_rows(name, rows, lambda row: row is not None and not np.isfinite(row).all(), "is not finite; send finite numbers")
    return rows


def _refuse_rows(name: str, rows: _Rows, is_wrong: Callable[[Any], bool], sentence: str) -> None:
    for index, row in enumerate(rows):
        if is_wrong(row):
            raise InputError(f"trajectories[{index}].{name} {sentence}")


def _read_lists(table: pa.Table, name: str, most: int = _MAX_VALUES) -> _Rows:
    """One array a row, (N,), or (N, d) for a list of lists, in the numbers' own type.

    Rows are views until their lengths are known to be reasonable: lists of different columns may overlap in the body.
    """
    column, shape = table.column(name), None
    if isinstance(column.type, pa.FixedShapeTensorType):
        shape = tuple(column.type.shape)
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    inner = column.type.value_type if _is_list(column.type) else None
    if inner is not None and _is_list(inner):
        inner = inner.value_type
    if inner is None or not _is_number(inner):
        raise InputError(f"column {name} has the type {str(column.type)[:100]}; send lists of floating-point numbers")
    rows: _Rows = []
    for chunk in column.chunks:
        for row in _split(chunk, len(rows), name, most):
            rows.append(row if row is None or shape is None else row.reshape(shape))
    return rows


def _split(chunk: pa.Array, first: int, name: str, most: int) -> Iterator[np.ndarray | None]:
    """The rows of one chunk, the first of which has the number `first`."""
    bounds, values = _unpack(chunk)
    longest = int(np.argmax(np.diff(bounds))) if len(chunk) else 0
    if len(chunk) and bounds[longest + 1] - bounds[longest] > most:
        count = bounds[longest + 1] - bounds[longest]
        raise InputError(f"trajectories[{first + longest}].{name} has {count} values; at most {most} are read")
    missing = chunk.is_null().to_numpy(zero_copy_only=False)
    numbers, width = values, 1
    if _is_list(values.type):
        inner, numbers = _unpack(values)
        sizes = np.unique(np.diff(inner))
        if sizes.size > 1 or 0 in sizes:
            raise InputError(f"column {name} has lists of different lengths, or empty ones; send equally many numbers for every entry")
        width = int(sizes[0]) if sizes.size else 1
    for level, size in ((values, 1), (numbers, width)):
        if level.null_count:
            places = np.flatnonzero(level.is_null().to_numpy(zero_copy_only=False)) // size
            owners = np.searchsorted(bounds, places, side="right") - 1
            for row in owners[~missing[owners]][:1]:
                raise InputError(f"trajectories[{first + row}].{name} is null or holds a null; send numbers")
    array = numbers.to_numpy(zero_copy_only=False)
    array = array if numbers is values else array.reshape(-1, width)
    ends = bounds.tolist()
    for start, stop, is_missing in zip(ends[:-1], ends[1:], missing.tolist(), strict=True):
        yield None if is_missing else array[start:stop]


def _unpack(chunk: Any) -> tuple[np.ndarray, Any]:
    """Lists of any kind as bounds (N + 1,), which begin at 0, and the values between the first and the last."""
    if pa.types.is_fixed_size_list(chunk.type):
        size = chunk.type.list_size
        return np.arange(len(chunk) + 1) * size, chunk.values.slice(chunk.offset * size, len(chunk) * size)
    bounds = chunk.offsets.to_numpy().astype(np.int64)
    return bounds - bounds[0], chunk.values.slice(bounds[0], bounds[-1] - bounds[0])


def _read_numbers(table: pa.Table, name: str) -> _Rows:
    column = table.column(name)
    if not _is_number(column.type):
        raise InputError(f"column {name} has the type {str(column.type)[:100]}; send numbers")
    values = column.to_numpy().astype(np.float64)  # nan where null
    missing = column.is_null().to_numpy()
    for index in np.flatnonzero(~np.isfinite(values) & ~missing)[:1]:
        raise InputError(f"trajectories[{index}].{name} is {values[index]}; it must be finite")
    return values.tolist() if not missing.any() else [None if null else value for value, null in zip(values.tolist(), missing, strict=True)]


def _read_text(table: pa.Table, name: str) -> _Rows:
    column = table.column(name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InputError(f"column {name} has the type {str(column.type)[:100]}; send strings")
    return column.to_pylist()


def _read_parameters(table: pa.Table, name: str) -> _Rows:
    column = table.column(name)
    kind = column.type
    is_map = pa.types.is_map(kind) and pa.types.is_string(kind.key_type) and _is_number(kind.item_type)
    is_struct = pa.types.is_struct(kind) and kind.num_fields <= _MAX_PARAMETERS
    is_struct = is_struct and all(_is_number(part.type) or pa.types.is_null(part.type) for part in kind)
    if not (is_map or is_struct):
        raise InputError(f"column {name} has the type {str(kind)[:100]}; send a map from names to numbers, or a struct of numbers")
    if is_map:
        sizes = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks])
        for index in np.flatnonzero(sizes > _MAX_PARAMETERS)[:1]:
            raise InputError(f"trajectories[{index}].{name} has {sizes[index]} names; at most {_MAX_PARAMETERS} are read")
    rows: _Rows = []
    for index, row in enumerate(column.to_pylist()):
        pairs = [] if row is None else row if is_map else [pair for pair in row.items() if pair[1] is not None]
        given = dict(pairs)
        if len(given) < len(pairs) or not all(value is not None and np.isfinite(value) for value in given.values()):
            raise InputError(f"trajectories[{index}].{name} is {str(pairs)[:100]}; send each name once, with a finite number")
        rows.append(None if row is None else {key: float(value) for key, value in given.items()})
    return rows


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
