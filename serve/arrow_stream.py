"""Batches as Arrow streams: the binary form of POST /v1/trajectories. What comes in is not trusted."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa

from ..physics import InputError
from .predictor import Answer, Query
from .schema import MAX_TRAJECTORIES

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_LISTS, _NUMBERS = ("potential", "times"), ("q0", "p0")
_COMPRESSION = 3  # the field of a RecordBatch in Message.fbs

_ANSWER_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.list_(pa.float64()), nullable=False) for name in ("times", "q", "p")),
        *(pa.field(name, pa.float64()) for name in ("energy_drift", "solver_error")),
        pa.field("source", pa.string(), nullable=False),
    ]
)


def read_queries(body: bytes) -> list[Query]:
    """The rows of a stream with a column `potential` and optional `q0`, `p0`, `times`.

    Raises
    ------
    InputError
        For anything that is not a complete, uncompressed Arrow stream of 1 to 1,024 such rows.
    """
    table = _read_table(body)
    names = table.column_names
    allowed = (*_LISTS, *_NUMBERS)
    if "potential" not in names or len(set(names)) != len(names) or not set(names) <= set(allowed):
        raise InputError(f"columns are {', '.join(names)[:200] or 'none'}; send potential and, if wanted, q0, p0 and times, each once")
    if not 1 <= table.num_rows <= MAX_TRAJECTORIES:
        raise InputError(f"trajectories has {table.num_rows} rows; send 1 to {MAX_TRAJECTORIES}")
    columns: dict[str, list[Any]] = {name: _read_lists(table, name) for name in _LISTS if name in names}
    columns |= {name: _read_numbers(table, name) for name in _NUMBERS if name in names}
    return [Query(**{name: column[row] for name, column in columns.items()}) for row in range(table.num_rows)]


def write_answers(answers: list[Answer]) -> bytes:
    """The answers as a stream with the columns times, q, p, energy_drift, solver_error, source."""
    columns = {name: [getattr(answer, name) for answer in answers] for name in _ANSWER_SCHEMA.names}
    arrays = [pa.array(columns[field.name], field.type) for field in _ANSWER_SCHEMA]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _ANSWER_SCHEMA) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=_ANSWER_SCHEMA))
    return sink.getvalue().to_pybytes()


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
    column = table.column(name)
    if isinstance(column.type, pa.FixedShapeTensorType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(kind(column.type) for kind in kinds) or not _is_number(column.type.value_type):
        raise InputError(f"column {name} has the type {str(column.type)[:100]}; send lists of floating-point numbers")
    rows = []
    for index, scalar in enumerate(column):
        values = scalar.values
        if values is None or values.null_count:
            raise InputError(f"trajectories[{index}].{name} is null or holds a null; send numbers")
        if len(values) > 1_000_000:
            raise InputError(f"trajectories[{index}].{name} has {len(values)} values; that is more than any model reads")
        rows.append(values.to_numpy(zero_copy_only=False))
    return rows


def _read_numbers(table: pa.Table, name: str) -> list[float]:
    column = table.column(name)
    if not _is_number(column.type) or column.null_count:
        raise InputError(f"column {name} has the type {str(column.type)[:100]} and {column.null_count} nulls; send numbers")
    return [float(value) for value in column.to_numpy()]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
