"""Batches as Arrow streams: the binary form of POST /v1/trajectories. What comes in is not trusted."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa

from ..physics import InputError
from ..physics.systems import System
from .orbit import TRUST_FIELDS, Orbit
from .problems import Problem
from .schema import MAX_TRAJECTORIES, request_names

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_COLUMNS = ("potential", "q0", "p0", "times")
_WORDS = ("source", "verdict")  # of the fields of `Trust`; the others are numbers
_COMPRESSION = 3  # the field of a RecordBatch in Message.fbs

_MAX_VALUES = 1_000_000  # of one list; more than any model reads


def read_problems(body: bytes, system: System) -> list[Problem]:
    """The rows of a stream with a column `potential` and optional `q0`, `p0`, `times`.

    With d > 1 degrees of freedom, a potential is the list of V at all sensors, the last coordinate running fastest, or a tensor;
    q0 and p0 are lists of d numbers.

    Raises
    ------
    InputError
        For anything that is not a complete, uncompressed Arrow stream of 1 to 1,024 such rows.
    """
    table = _read_table(body)
    names = table.column_names
    if "potential" not in names or len(set(names)) != len(names) or not set(names) <= set(_COLUMNS):
        raise InputError(f"columns are {', '.join(names)[:200] or 'none'}; send potential and, if wanted, q0, p0 and times, each once")
    if not 1 <= table.num_rows <= MAX_TRAJECTORIES:
        raise InputError(f"trajectories has {table.num_rows} rows; send 1 to {MAX_TRAJECTORIES}")
    lists = {"potential", "times"} | ({"q0", "p0"} if system.degrees_of_freedom > 1 else set())
    columns: dict[str, list[Any]] = {name: (_read_lists if name in lists else _read_numbers)(table, name) for name in names}
    rows = [{name: column[row] for name, column in columns.items()} for row in range(table.num_rows)]
    return [Problem(**row, names=request_names(index)) for index, row in enumerate(rows)]


def write_orbits(orbits: list[Orbit], system: System) -> bytes:
    """The orbits as a stream with the columns times, q, p, and those of `Trust`."""
    schema = _response_schema(system.degrees_of_freedom)
    columns = {name: [getattr(orbit, name).tolist() for orbit in orbits] for name in ("times", "q", "p")}
    columns |= {name: [getattr(orbit.trust, name) for orbit in orbits] for name in TRUST_FIELDS}
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return sink.getvalue().to_pybytes()


def _response_schema(degrees_of_freedom: int) -> pa.Schema:
    number = pa.float64()
    state = number if degrees_of_freedom == 1 else pa.list_(number, degrees_of_freedom)
    return pa.schema(
        [
            pa.field("times", pa.list_(number), nullable=False),
            *(pa.field(name, pa.list_(state), nullable=False) for name in ("q", "p")),
            *(pa.field(name, pa.string() if name in _WORDS else number, nullable=name != "source") for name in TRUST_FIELDS),
        ]
    )


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


def _read_lists(table: pa.Table, name: str) -> list[np.ndarray]:
    """One array a row. Rows stay views until their lengths are known to be reasonable: lists may overlap in the body."""
    column, shape = table.column(name), (-1,)
    if isinstance(column.type, pa.FixedShapeTensorType):
        shape = tuple(column.type.shape)
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(kind(column.type) for kind in kinds) or not _is_number(column.type.value_type):
        raise InputError(f"column {name} has the type {str(column.type)[:100]}; send lists of floating-point numbers")
    rows = []
    for index, scalar in enumerate(column):
        values = scalar.values
        if values is None or values.null_count:
            raise InputError(f"trajectories[{index}].{name} is null or holds a null; send numbers")
        if len(values) > _MAX_VALUES:
            raise InputError(f"trajectories[{index}].{name} has {len(values)} values; at most {_MAX_VALUES} are read")
        rows.append(values.to_numpy(zero_copy_only=False).reshape(shape))
    return rows


def _read_numbers(table: pa.Table, name: str) -> list[float]:
    column = table.column(name)
    if not _is_number(column.type) or column.null_count:
        raise InputError(f"column {name} has the type {str(column.type)[:100]} and {column.null_count} nulls; send numbers")
    return [float(value) for value in column.to_numpy()]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
