"""The Parquet schema of a dataset: one row is one trajectory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..physics import Problem

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


def problems_to_table(problems: Sequence[Problem], potentials: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Rows from solved problems and their sensor readings (rows, S)."""
    tensors = {
        "potential": potentials,
        "times": np.stack([problem.trajectory.times for problem in problems]),
        "q": np.stack([problem.trajectory.q for problem in problems]),
        "p": np.stack([problem.trajectory.p for problem in problems]),
    }
    columns = []
    for field in schema:
        if field.name in tensors:
            values = tensors[field.name].astype(field.type.value_type.to_pandas_dtype())
            storage = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            columns.append(pa.ExtensionArray.from_storage(field.type, storage))
        else:
            columns.append(pa.array([_cell(problem, field.name) for problem in problems], field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _cell(problem: Problem, name: str) -> Any:
    source = problem if hasattr(problem, name) else problem.trajectory
    return getattr(source, name)


def tensor_column(table: pa.Table, name: str) -> np.ndarray:
    """A tensor column as (rows, size), without a copy where it is one chunk."""
    column = table.column(name).combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return np.concatenate([chunk.to_numpy_ndarray() for chunk in chunks]) if len(chunks) != 1 else chunks[0].to_numpy_ndarray()
