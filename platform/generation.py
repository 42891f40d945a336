"""Dataset generation: one Ray Data row per missing shard, each written by one task and renamed into place."""

import io
import json
import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..physics import InputError, draw_problem
from ..physics.ensembles import SPLITS, draw_noise
from .config import DataConfig, changed_keys
from .progress import track
from .provenance import code_version, hash_file, hash_json, write_atomically, write_json
from .schema import DATASET_SCHEMA_VERSION, MANIFEST_FILE, dataset_schema, problems_to_table

_METADATA_KEY = b"neural_hamilton"


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
    """What a row depends on: the configuration without counts and file layout."""
    return config.model_dump(mode="json", exclude={"train", "val", "test", "shard_rows"})


def make_rows(config: DataConfig, split: str, start: int, stop: int) -> tuple[pa.Table, dict[str, int]]:
    """Rows [start, stop) of a split and the rejections by reason met on the way; a pure function."""
    problems, rejections = [], Counter()
    potentials = np.empty((stop - start, config.sensors))
    sensors = np.linspace(0.0, 1.0, config.sensors)
    ensemble = config.ensemble
    for row, index in enumerate(range(start, stop)):
        problem, rejected = draw_problem(ensemble, config.seed, split, index)
        problems.append(problem)
        rejections.update(reason.value for reason in rejected)
        potentials[row] = problem.potential.value(sensors)
        if config.noise:
            potentials[row] += config.noise * draw_noise(config.seed, split, index, config.sensors)
    schema = dataset_schema(config.sensors, config.times, config.dtype)
    return problems_to_table(problems, potentials, schema), dict(rejections)


def write_shard(config: DataConfig, folder: Path, shard: Shard) -> dict[str, Any]:
    """Make and write one shard; its manifest line. The file carries its own identity for a later run to check."""
    table, rejections = make_rows(config, shard.split, shard.start, shard.stop)
    identity = {"rows_config": hash_json(rows_config(config)), "start": shard.start, "stop": shard.stop, "rejections": rejections}
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(identity, sort_keys=True)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path = folder / shard.file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return _manifest_line(folder, shard, rejections)


def generate(destination: Path, config: DataConfig) -> dict[str, Any]:
    """Write, complete or repair the dataset at `destination` with Ray Data; returns its manifest.

    Files already there and whole are left untouched; missing or damaged ones are made again, which
    gives the same bytes because rows are pure functions of the configuration.

    Raises
    ------
    InputError
        Where `destination` holds another dataset or anything else, cannot be written, or fills up.
    """
    destination = destination.absolute()
    shards = plan_shards(config)
    _check_destination(destination, config)
    complete = (destination / MANIFEST_FILE).exists()
    recorded = {line["file"]: line for line in read_manifest(destination)["files"]} if complete else None
    lines = {shard.file: line for shard in shards if (line := _intact(destination, config, shard, recorded))}
    missing = [shard for shard in shards if shard.file not in lines]
    with track("generate", sum(shard.stop - shard.start for shard in missing)) as progress:
        for line in _run_shards(destination, config, missing):
            if "failure" in line:
                raise InputError(
                    f"{line['file']} could not be written: {line['failure']}; run the same command again to complete the dataset"
                )
            lines[line["file"]] = line
            progress.advance(line["rows"])
    manifest = _manifest(config, [lines[shard.file] for shard in shards])
    path = destination / MANIFEST_FILE
    if not path.exists() or json.loads(path.read_text()) != manifest:
        write_json(path, manifest)
    return manifest


def _run_shards(destination: Path, config: DataConfig, shards: list[Shard]) -> Any:
    if not shards:
        return
    from .ray_runtime import connect

    ray = connect()
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        handler.setLevel(logging.ERROR)

    def work(batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        shard = shards[int(batch["item"][0])]
        try:
            line = write_shard(config, destination, shard)
        except (OSError, InputError) as error:  # a value, so that one full disk is one sentence and not a traceback
            line = {"file": shard.file, "failure": getattr(error, "strerror", None) or str(error)}
        return {"line": [json.dumps(line)]}

    dataset = ray.data.from_items(list(range(len(shards))), override_num_blocks=len(shards))
    for row in dataset.map_batches(work, batch_size=1).iter_rows():
        yield json.loads(row["line"])


def _check_destination(destination: Path, config: DataConfig) -> None:
    if destination.exists() and not destination.is_dir():
        raise InputError(f"destination {str(destination)!r} is a file; give a folder")
    manifest = destination / MANIFEST_FILE
    if manifest.exists():
        recorded = read_manifest(destination)["config"]
        difference = changed_keys(recorded, config.model_dump(mode="json"))
        if difference:
            raise InputError(f"destination {str(destination)!r} already holds a dataset with {difference}; choose another folder")
    elif destination.exists():
        _check_partial(destination, config)
    try:
        destination.mkdir(parents=True, exist_ok=True)
        probe = destination / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"destination {str(destination)!r} cannot be written: {error.strerror}") from None


def _check_partial(destination: Path, config: DataConfig) -> None:
    """A folder without a manifest must be empty, or hold shards of this very dataset."""
    expected = {shard.file for shard in plan_shards(config)}
    for path in destination.rglob("*"):
        name = path.relative_to(destination).as_posix()
        if path.is_file() and name not in expected and not path.name.endswith(".partial"):
            raise InputError(f"destination {str(destination)!r} holds {name!r}, which is not part of this dataset; choose another folder")
    for path in sorted(destination.glob("*/*.parquet")):
        identity = _identity(path)
        if identity and identity["rows_config"] != hash_json(rows_config(config)):
            raise InputError(f"destination {str(destination)!r} holds rows of another configuration; choose another folder")


def _identity(path: Path) -> dict[str, Any] | None:
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata[_METADATA_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def _intact(destination: Path, config: DataConfig, shard: Shard, recorded: dict[str, dict[str, Any]] | None) -> dict[str, Any] | None:
    """The manifest line of a shard already there and whole, else None; `recorded` are the lines of an earlier manifest."""
    path = destination / shard.file
    if not path.exists():
        return None
    identity = _identity(path)
    wanted = (hash_json(rows_config(config)), shard.start, shard.stop)
    if identity is None or (identity["rows_config"], identity["start"], identity["stop"]) != wanted:
        return None
    line = _manifest_line(destination, shard, identity["rejections"])
    if recorded is not None:
        return line if recorded.get(shard.file) == line else None
    try:
        pq.read_table(path)  # no checksum to hold it against yet: read every page
    except (OSError, pa.ArrowException):
        return None
    return line


def _manifest_line(folder: Path, shard: Shard, rejections: dict[str, int]) -> dict[str, Any]:
    path = folder / shard.file
    return {
        "file": shard.file,
        "split": shard.split,
        "rows": shard.stop - shard.start,
        "bytes": path.stat().st_size,
        "sha256": hash_file(path),
        "rejections": rejections,
    }


def _manifest(config: DataConfig, files: list[dict[str, Any]]) -> dict[str, Any]:
    rejections: Counter[str] = Counter()
    for line in files:
        rejections.update(line["rejections"])
    return {
        "schema_version": DATASET_SCHEMA_VERSION,
        "preset": config.preset,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "counts": config.counts,
        "rejections": dict(sorted(rejections.items())),
        "files": files,
        "dataset_hash": hash_json([(line["file"], line["sha256"]) for line in files]),
        "code_version": code_version(),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a dataset folder.

    Raises InputError where there is none, it cannot be read, or it is of another schema version.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text())
    except OSError:
        raise InputError(f"dataset {str(folder)!r} has no readable {MANIFEST_FILE}; run generate again to complete it") from None
    except ValueError:
        raise InputError(f"{path} is not JSON") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != DATASET_SCHEMA_VERSION:
        raise InputError(f"{path} has schema_version {version!r}; this version reads {DATASET_SCHEMA_VERSION}")
    return manifest


def measure_generation(config: DataConfig, rows: int = 32) -> dict[str, float]:
    """Seconds and compressed bytes per row, from a micro-run in this process."""
    make_rows(config, "train", 0, 1)  # compile first
    started = time.perf_counter()
    table, _ = make_rows(config, "train", 0, rows)
    seconds = (time.perf_counter() - started) / rows
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return {"seconds_per_row": seconds, "bytes_per_row": buffer.tell() / rows}
