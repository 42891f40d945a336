"""The Parquet schema of a dataset: one row is one trajectory."""

import numpy as np
import pyarrow as pa

from ...physics import Rows

DATASET_SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
TENSOR_COLUMNS = ("potential", "times", "q", "p")


def dataset_schema(num_sensors: int, num_times: int, dtype: str) -> pa.Schema:
    """The columns of the dataset contract; tensors are Arrow's own fixed-shape tensors."""
    value = pa.float32() if dtype == "float32" else pa.float64()
    sensors, times = (pa.fixed_shape_tensor(value, [size]) for size in (num_sensors, num_times))
    return pa.schema(
        [
            pa.field("trajectory_id", pa.int64(), nullable=False),
            pa.field("potential_id", pa.int64(), nullable=False),
            pa.field("potential", sensors, nullable=False),
            pa.field("times", times, nullable=False),
            pa.field("q", times, nullable=False),
            pa.field("p", times, nullable=False),
            pa.field("q0", pa.float64(), nullable=False),
            pa.field("p0", pa.float64(), nullable=False),
            pa.field("energy", pa.float64(), nullable=False),
            pa.field("control_q", pa.list_(pa.float64()), nullable=False),
            pa.field("control_v", pa.list_(pa.float64()), nullable=False),
            pa.field("length_scale", pa.float64()),
            pa.field("depth", pa.float64()),
            pa.field("stratum", pa.int8()),
            pa.field("integration_error", pa.float64(), nullable=False),
            pa.field("energy_drift", pa.float64(), nullable=False),
        ]
    )


def rows_to_table(rows: Rows, potentials: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Solved rows and their sensor readings (R, S) as a table of the schema."""
    columns = []
    for field in schema:
        values = potentials if field.name == "potential" else getattr(rows, field.name)
        if field.name in TENSOR_COLUMNS:
            flat = pa.array(np.ascontiguousarray(values, dtype=field.type.value_type.to_pandas_dtype()).ravel())
            storage = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            columns.append(pa.ExtensionArray.from_storage(field.type, storage))
        elif field.name in ("control_q", "control_v"):
            counts = np.arange(values.shape[1]) < rows.num_control[:, None]
            offsets = np.concatenate([[0], np.cumsum(rows.num_control)]).astype(np.int32)
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[counts])))
        elif field.nullable:
            missing = np.isnan(values) if values.dtype.kind == "f" else values < 0
            columns.append(pa.array(values, field.type, mask=missing))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def tensor_column(table: pa.Table, name: str) -> np.ndarray:
    """A tensor column as (rows, size), without a copy where it is one chunk."""
    column = table.column(name).combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return np.concatenate([chunk.to_numpy_ndarray() for chunk in chunks]) if len(chunks) != 1 else chunks[0].to_numpy_ndarray()
