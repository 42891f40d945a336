"""The files of a dataset: which rows lie where, and one file made, written and recognised. No Ray, no networks."""

import io
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics.files import atomic_file
from ...physics.systems import ROWS_VERSION, SPLITS, Draws, draw_rows
from ..config.data import DataConfig
from ..provenance import hash_file, hash_json
from ..storage import Location, fetched, staged
from .manifest import as_schema_1
from .schema import columns_to_table, dataset_schema, rows_to_table, tensor_columns

_METADATA_KEY = "neural_hamilton"
_GROUP_VALUES = 1 << 20  # numbers in a row group
_SMALLEST_CERTIFICATE = 1e-16


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a split, and the file they live in."""

    split: str
    start: int
    stop: int
    file: str


def plan_shards(config: DataConfig) -> list[Shard]:
    """Every file of a dataset, in order."""
    shards = []
    for split in SPLITS:
        rows = config.counts[split]
        count = -(-rows // config.shard_rows)
        for part in range(count):
            start = part * config.shard_rows
            name = f"{split}/part-{part:05d}-of-{count:05d}.parquet"
            shards.append(Shard(split, start, min(start + config.shard_rows, rows), name))
    return shards


def rows_config(config: DataConfig) -> dict[str, Any]:
    """What a row depends on: the configuration without counts and file layout, and the version of the draws."""
    return _without_layout(config.model_dump(mode="json"))


def rows_hashes(config: DataConfig) -> set[str]:
    """Hashes by which rows of this configuration are known: today's, and that of version 0.1 for what it could draw."""
    earlier = as_schema_1(config)
    return {hash_json(rows_config(config))} | ({hash_json(_without_layout(earlier))} if earlier else set())


def _without_layout(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in (*SPLITS, "shard_rows")}
    return kept | {"rows_version": ROWS_VERSION}


def make_rows(config: DataConfig, split: str, indices: np.ndarray) -> tuple[pa.Table, Counter[str]]:
    """Rows `indices` (R,) of a split, and the rejections by reason met on the way; a pure function."""
    rows, rejections = draw_rows(
        config.get_system(),
        config.distribution,
        config.seed,
        split,
        indices,
        num_times=config.times,
        method=config.integrator,
        tolerance=config.tolerance,
    )
    fields = rows.hamiltonians.sense(config.sensor_shape)
    if config.noise:
        fields = _add_noise(fields, config.noise, Draws(config.seed, split, indices))
    table = rows_to_table(rows, fields, dataset_schema(config))
    return table, Counter({reason.value: count for reason, count in rejections.items()})


def _add_noise(fields: dict[str, np.ndarray], noise: float, draws: Draws) -> dict[str, np.ndarray]:
    """Fields with independent normal noise on every value."""
    sizes = [int(np.prod(values.shape[1:])) for values in fields.values()]
    parts = np.split(draws.noise(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    return {name: values + noise * part.reshape(values.shape) for (name, values), part in zip(fields.items(), parts, strict=True)}


def write_shard(config: DataConfig, folder: Location, shard: Shard) -> dict[str, Any]:
    """Make and write one shard; its manifest line. The file carries its own record, for a later run to check."""
    rejections: Counter[str] = Counter()
    certificates: Counter[str] = Counter()
    schema = dataset_schema(config)
    # Row groups of bounded size, so that memory depends neither on the rows of a shard nor on their length.
    step = max(1, _GROUP_VALUES // row_values(config))
    with staged(folder / shard.file) as path:
        with atomic_file(path) as stream, pq.ParquetWriter(stream, schema, **_parquet_options(config)) as writer:
            for start in range(shard.start, shard.stop, step):
                table, rejected = make_rows(config, shard.split, np.arange(start, min(start + step, shard.stop)))
                rejections.update(rejected)
                certificates.update(_decades(table.column("integration_error").to_numpy()))
                writer.write_table(table)
            counters = {"rejections": rejections, "certificates": certificates}
            record = _wanted(config, shard) | {name: dict(sorted(counter.items())) for name, counter in counters.items()}
            writer.add_key_value_metadata({_METADATA_KEY: json.dumps(record, sort_keys=True)})
        return _manifest_line(path, shard, record)


def write_imported_shard(config: DataConfig, folder: Location, shard: Shard, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write the rows of one shard, given as arrays by column; its manifest line."""
    schema, record = dataset_schema(config), imported_record(config, shard)
    step = max(1, _GROUP_VALUES // row_values(config))
    with staged(folder / shard.file) as path:
        with atomic_file(path) as stream, pq.ParquetWriter(stream, schema, **_parquet_options(config)) as writer:
            for start in range(0, shard.stop - shard.start, step):
                writer.write_table(columns_to_table({name: values[start : start + step] for name, values in rows.items()}, schema))
            writer.add_key_value_metadata({_METADATA_KEY: json.dumps(record, sort_keys=True)})
        return _manifest_line(path, shard, record)


def imported_record(config: DataConfig, shard: Shard) -> dict[str, Any]:
    """What a shard of imported rows records of itself: none of them was rejected, and none is certified."""
    return _wanted(config, shard) | {"rejections": {}, "certificates": {}}


def read_record(path: Path) -> dict[str, Any] | None:
    """What a shard says of itself; None where it is no readable shard."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        return json.loads(metadata[_METADATA_KEY.encode()])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Found:
    """A file that lies where a shard belongs: its record, its manifest line where it is that shard and whole, and whose it is."""

    record: dict[str, Any] | None
    line: dict[str, Any] | None
    is_foreign: bool  # sound Parquet of someone else's, and no damaged file of this dataset: that keeps its size, or cannot be read


def find_shard(config: DataConfig, folder: Location, shard: Shard, recorded: dict[str, dict[str, Any]] | None) -> Found:
    """What lies where a shard belongs; `recorded` are the lines of an earlier manifest. Raises FileNotFoundError where nothing does."""
    with fetched(folder / shard.file) as path:
        try:
            pq.read_metadata(path)
        except (OSError, pa.ArrowException):
            return Found(None, None, is_foreign=False)
        record = read_record(path)
        before = (recorded or {}).get(shard.file)
        is_foreign = record is None or (before is not None and path.stat().st_size != before["bytes"])
        return Found(record, None if is_foreign else _line_of_whole(config, path, shard, record, recorded), is_foreign)


def _line_of_whole(
    config: DataConfig, path: Path, shard: Shard, record: dict[str, Any] | None, recorded: dict[str, dict[str, Any]] | None
) -> dict[str, Any] | None:
    """The manifest line of a file that is this shard and whole, else None."""
    if record is None or not _fits(record, config, shard):
        return None
    line = _manifest_line(path, shard, record)
    if recorded is not None:
        return line if recorded.get(shard.file) == line else None
    try:
        pq.read_table(path)  # no checksum to hold it against yet: read every page
    except (OSError, pa.ArrowException):
        return None
    return line


def measure_shard(config: DataConfig, rows: int = 512) -> dict[str, float]:
    """Seconds and compressed bytes per row, from a micro-run in this process."""
    make_rows(config, "train", np.arange(1))  # compile first
    started = time.perf_counter()
    table, _ = make_rows(config, "train", np.arange(rows))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **_parquet_options(config))
    return {"seconds_per_row": (time.perf_counter() - started) / rows, "bytes_per_row": buffer.tell() / rows}


def row_values(config: DataConfig) -> int:
    """Numbers in the tensor columns of a row."""
    return sum(int(np.prod(shape)) for shape in tensor_columns(config).values())


def _parquet_options(config: DataConfig) -> dict[str, Any]:
    """Trajectories never repeat a number, so dictionaries only cost; grouping the bytes of floats by significance (byte stream
    split) is what makes smooth columns compress.
    """
    smooth = [name for name in tensor_columns(config) if name != "times"]
    return {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": [f"{name}.list.element" for name in smooth]}


def _wanted(config: DataConfig, shard: Shard) -> dict[str, Any]:
    return {"rows_config": hash_json(rows_config(config)), "start": shard.start, "stop": shard.stop}


def _fits(record: dict[str, Any], config: DataConfig, shard: Shard) -> bool:
    same_place = (record.get("start"), record.get("stop")) == (shard.start, shard.stop)
    return same_place and record.get("rows_config") in rows_hashes(config)


def _decades(certificates: np.ndarray) -> Counter[str]:
    """How many certificates lie at or below each power of ten, and above the one before."""
    exponents = np.ceil(np.log10(np.maximum(certificates, _SMALLEST_CERTIFICATE)) - 1e-9).astype(int)
    return Counter({f"1e{exponent:+03d}": int(count) for exponent, count in zip(*np.unique(exponents, return_counts=True), strict=True)})


def _manifest_line(path: Path, shard: Shard, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": shard.file,
        "split": shard.split,
        "rows": shard.stop - shard.start,
        "bytes": path.stat().st_size,
        "sha256": hash_file(path),
        "rejections": record["rejections"],
        "certificates": record["certificates"],
    }
