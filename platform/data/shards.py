"""The files of a dataset: which rows lie where, and one file made, written and recognised. No Ray, no networks."""

import io
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics import draw_rows
from ...physics.ensembles import ROWS_VERSION, SPLITS, draw_noise
from ..config.data import DataConfig
from ..provenance import atomic_file, hash_file, hash_json
from .schema import dataset_schema, rows_to_table

_METADATA_KEY = "neural_hamilton"
_GROUP_VALUES = 1 << 20  # numbers in a row group
_SMALLEST_CERTIFICATE = 1e-16
# Trajectories never repeat a number, so dictionaries only cost; grouping the bytes of floats by significance
# (byte stream split) is what makes smooth columns compress.
_PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": False,
    "use_byte_stream_split": [f"{name}.list.element" for name in ("potential", "q", "p")],
}


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
    return config.model_dump(mode="json", exclude={"train", "val", "test", "shard_rows"}) | {"rows_version": ROWS_VERSION}


def make_rows(config: DataConfig, split: str, indices: np.ndarray) -> tuple[pa.Table, Counter[str]]:
    """Rows `indices` (R,) of a split, and the rejections by reason met on the way; a pure function."""
    rows, rejections = draw_rows(config.ensemble, config.seed, split, indices)
    potentials = rows.curves.sample(np.linspace(0.0, 1.0, config.sensors))
    if config.noise:
        potentials += config.noise * draw_noise(config.seed, split, indices, config.sensors)
    table = rows_to_table(rows, potentials, dataset_schema(config.sensors, config.times, config.dtype))
    return table, Counter({reason.value: count for reason, count in rejections.items()})


def write_shard(config: DataConfig, folder: Path, shard: Shard) -> dict[str, Any]:
    """Make and write one shard; its manifest line. The file carries its own record, for a later run to check."""
    rejections: Counter[str] = Counter()
    certificates: Counter[str] = Counter()
    path = folder / shard.file
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = dataset_schema(config.sensors, config.times, config.dtype)
    # Row groups of bounded size, so that memory depends neither on the rows of a shard nor on their length.
    step = max(1, _GROUP_VALUES // (config.sensors + 3 * config.times))
    with atomic_file(path) as stream, pq.ParquetWriter(stream, schema, **_PARQUET) as writer:
        for start in range(shard.start, shard.stop, step):
            table, rejected = make_rows(config, shard.split, np.arange(start, min(start + step, shard.stop)))
            rejections.update(rejected)
            certificates.update(_decades(table.column("integration_error").to_numpy()))
            writer.write_table(table)
        counters = {"rejections": rejections, "certificates": certificates}
        record = _wanted(config, shard) | {name: dict(sorted(counter.items())) for name, counter in counters.items()}
        writer.add_key_value_metadata({_METADATA_KEY: json.dumps(record, sort_keys=True)})
    return _manifest_line(folder, shard, record)


def read_record(path: Path) -> dict[str, Any] | None:
    """What a shard says of itself; None where it is no readable shard."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        return json.loads(metadata[_METADATA_KEY.encode()])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def recognise_shard(config: DataConfig, folder: Path, shard: Shard, recorded: dict[str, dict[str, Any]] | None) -> dict[str, Any] | None:
    """The manifest line of a shard already there and whole, else None; `recorded` are the lines of an earlier manifest."""
    path = folder / shard.file
    record = read_record(path) if path.exists() else None
    if record is None or record | _wanted(config, shard) != record:
        return None
    line = _manifest_line(folder, shard, record)
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
    pq.write_table(table, buffer, **_PARQUET)
    return {"seconds_per_row": (time.perf_counter() - started) / rows, "bytes_per_row": buffer.tell() / rows}


def _wanted(config: DataConfig, shard: Shard) -> dict[str, Any]:
    return {"rows_config": hash_json(rows_config(config)), "start": shard.start, "stop": shard.stop}


def _decades(certificates: np.ndarray) -> Counter[str]:
    """How many certificates lie at or below each power of ten, and above the one before."""
    exponents = np.ceil(np.log10(np.maximum(certificates, _SMALLEST_CERTIFICATE)) - 1e-9).astype(int)
    return Counter({f"1e{exponent:+03d}": int(count) for exponent, count in zip(*np.unique(exponents, return_counts=True), strict=True)})


def _manifest_line(folder: Path, shard: Shard, record: dict[str, Any]) -> dict[str, Any]:
    path = folder / shard.file
    return {
        "file": shard.file,
        "split": shard.split,
        "rows": shard.stop - shard.start,
        "bytes": path.stat().st_size,
        "sha256": hash_file(path),
        "rejections": record["rejections"],
        "certificates": record["certificates"],
    }
