"""The Parquet schema of a dataset: one row is one trajectory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ...physics.systems import Imported, Rows, System
from ..config.data import DataConfig

_ARROW = {"float64": pa.float64(), "int8": pa.int8(), "list": pa.list_(pa.float64())}


def tensor_columns(config: DataConfig) -> dict[str, tuple[int, ...]]:
    """The tensor columns and the shape of each: fields at the sensors, query times, and the true state there."""
    system, state = config.get_system(), (config.times, *_state_shape(config.get_system()))
    fields = {name: (*([channels] if channels > 1 else []), *config.sensor_shape) for name, channels in system.fields.items()}
    return fields | {"times": (config.times,), "q": state, "p": state}


def dataset_schema(config: DataConfig) -> pa.Schema:
    """The columns of the dataset contract; tensors are Arrow's own fixed-shape tensors.

    Imported rows have neither the system's own columns, from which Hamiltonians are rebuilt, nor a certificate.
    """
    own = () if is_imported(config) else config.get_system().columns
    value = pa.float32() if config.dtype == "float32" else pa.float64()
    tensors = {name: pa.fixed_shape_tensor(value, list(shape)) for name, shape in tensor_columns(config).items()}
    size = _state_shape(config.get_system())
    state = pa.list_(pa.float64(), size[0]) if size else pa.float64()
    kinds = {
        "trajectory_id": pa.int64(),
        "potential_id": pa.int64(),
        **tensors,
        "q0": state,
        "p0": state,
        "energy": pa.float64(),
        **{column.name: _ARROW[column.kind] for column in own},
        "integration_error": pa.float64(),
        "energy_drift": pa.float64(),
    }
    nullable = {column.name for column in own if column.nullable} | ({"integration_error"} if is_imported(config) else set())
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in kinds.items()])


def is_imported(config: DataConfig) -> bool:
    """Whether the rows of a dataset were made elsewhere."""
    return isinstance(config.distribution, Imported)


def rows_to_table(rows: Rows, fields: dict[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    """Solved rows and the fields at their sensors as a table of the schema."""
    return columns_to_table(rows.columns | fields, schema)


def columns_to_table(columns: Mapping[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    """Arrays by column, the rows on their first axis, as a table of the schema."""
    return pa.Table.from_arrays([_to_arrow(columns[field.name], field) for field in schema], schema=schema)


def _to_arrow(values: np.ndarray, field: pa.Field) -> pa.Array:
    if isinstance(field.type, pa.FixedShapeTensorType):
        flat = pa.array(np.ascontiguousarray(values, dtype=field.type.value_type.to_pandas_dtype()).ravel())
        return pa.ExtensionArray.from_storage(field.type, pa.FixedSizeListArray.from_arrays(flat, int(np.prod(field.type.shape))))
    if pa.types.is_fixed_size_list(field.type):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), field.type.list_size)
    if pa.types.is_list(field.type):
        inside = ~np.isnan(values)
        offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[inside]))
    if field.nullable:
        return pa.array(values, field.type, mask=np.isnan(values) if values.dtype.kind == "f" else values < 0)
    return pa.array(values, field.type)


def tensor_column(table: pa.Table, name: str) -> np.ndarray:
    """A tensor column as (rows, *shape), without a copy where it is one chunk."""
    column = table.column(name).combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return np.concatenate([chunk.to_numpy_ndarray() for chunk in chunks]) if len(chunks) != 1 else chunks[0].to_numpy_ndarray()


def state_column(table: pa.Table, name: str) -> np.ndarray:
    """An initial position or momentum as (rows,), or (rows, d) with d degrees of freedom."""
    column: Any = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten()).reshape(-1, column.type.list_size)
    return np.asarray(column)


def _state_shape(system: System) -> tuple[int, ...]:
    """The trailing shape of a state: () with one degree of freedom, (d,) with d."""
    return () if system.degrees_of_freedom == 1 else (system.degrees_of_freedom,)
