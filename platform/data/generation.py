"""Dataset generation: missing shards made at once, by tasks of Ray Data or by threads, each written whole and renamed into place."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...physics import InputError
from ...physics.errors import StorageUnavailable, is_full_disk
from ...physics.files import is_litter, write_file, write_json
from ..config.data import DataConfig
from ..folder_lock import LOCK_FILE, holds_folder
from ..outputs import check_placement
from ..progress import track
from ..provenance import changed_keys, code_version, hash_json
from ..storage import READERS, Location, Url, list_files, locate
from .card import CARD_FILE, render_card
from .datasets import made_by
from .manifest import DATASET_SCHEMA_VERSION, MANIFEST_FILE, read_config, read_manifest
from .schema import is_imported
from .shards import Shard, find_shard, plan_shards, rows_config, rows_hashes, write_shard

_SHARDS_OF_TASK = 8  # at most: the command shows its progress as tasks end
_UNFINISHED = b"This dataset is unfinished. The command that began it completes it.\n"  # its card until then


@holds_folder("destination", "destination")
def generate(destination: Location, config: DataConfig, *, workers: int | None = None, local: bool = False) -> dict[str, Any]:
    """Write, complete or repair the dataset at `destination` with Ray Data; returns its manifest.

    Files already there and whole are left untouched; missing or damaged ones are made again, which
    gives the same bytes because rows are pure functions of the configuration. `workers` tasks run at once, by
    default one a CPU; with `local` they are threads of this process, and Ray is not imported.

    To a URL every task writes by itself: no row goes through this process.

    Raises
    ------
    InputError
        Where `destination` holds another dataset or anything else, cannot be written, or fills up.
    """
    destination = locate(destination).absolute()
    shards = plan_shards(config)
    if is_imported(config):
        raise InputError("data.ensemble is 'imported', whose rows were made elsewhere; choose an ensemble that can be drawn")
    if not local and not destination.exists():
        _connect()  # a cluster that cannot be reached leaves no folder behind
    lines = claim_destination(destination, config)
    missing = [shard for shard in shards if shard.file not in lines]
    made = (_run_in_threads if local else _run_on_ray)(_writer(destination, config), destination, missing, workers)
    try:
        with track("generate", sum(shard.stop - shard.start for shard in missing)) as progress, closing(made):
            for line in made:
                if "failure" in line:
                    raise (StorageUnavailable if line["of_storage"] else InputError)(
                        f"{line['file']} could not be written: {line['failure']}; run the same command again to complete the dataset"
                    )
                lines[line["file"]] = line
                progress.advance(line["rows"])
    finally:
        remove_partial_files(destination)  # of tasks that were killed; one that is being killed may leave its own to the next call
    manifest = build_manifest(config, [lines[shard.file] for shard in shards])
    write_manifest(destination, manifest)
    return manifest


def write_manifest(destination: Location, manifest: dict[str, Any]) -> None:
    """The card, then the manifest, which makes the dataset complete; nothing where they are there."""
    path = destination / MANIFEST_FILE
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(manifest)):
        write_file(destination / CARD_FILE, render_card(manifest).encode())
        write_json(path, manifest)


_Write = Callable[[Shard], dict[str, Any]]


def _writer(destination: Location, config: DataConfig) -> _Write:
    """Writes a shard and gives its manifest line; what goes wrong is a value, so that one full disk is one sentence."""

    def write(shard: Shard) -> dict[str, Any]:
        try:
            return write_shard(config, destination, shard)
        except (OSError, InputError, StorageUnavailable) as error:
            failure = getattr(error, "strerror", None) or str(error)
            return {"file": shard.file, "failure": failure, "of_storage": isinstance(error, StorageUnavailable) or is_full_disk(error)}

    return write


def _run_in_threads(write: _Write, _: Location, shards: list[Shard], workers: int | None) -> Generator[dict[str, Any]]:
    """Threads are enough: the compiled solver, three quarters of the work, and Parquet's compression let go of the GIL."""
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        for task in as_completed([pool.submit(write, shard) for shard in shards]):
            yield task.result()
    finally:
        pool.shutdown(cancel_futures=True)  # where the reader stopped early: shards under way end, no other begins


def _connect() -> Any:
    from ..ray_runtime import connect

    return connect()


def _run_on_ray(write: _Write, destination: Location, shards: list[Shard], workers: int | None) -> Generator[dict[str, Any]]:
    if not shards:
        return
    from ..shared_folders import check_shared

    ray = _connect()
    check_shared(ray, destination, "destination", urls=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        handler.setLevel(logging.ERROR)

    def work(batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        lines = []
        for index in batch["shard"]:
            lines.append(write(shards[int(index)]))
            if "failure" in lines[-1]:
                break
        return {"line": [json.dumps(line) for line in lines]}

    cpus = ray.cluster_resources().get("CPU", 0.0)
    groups = [pa.table({"shard": group}) for group in _groups(len(shards), workers or int(cpus))]
    limits = {"concurrency": workers, "num_cpus": min(1.0, (cpus or workers) / workers)} if workers else {}
    for row in ray.data.from_arrow(groups).map_batches(work, batch_size=None, **limits).iter_rows():
        yield json.loads(row["line"])


def _groups(count: int, workers: int) -> Iterator[range]:
    """Indices of shards for a task each. Between two tasks of a worker Ray Data lets 0.1 to 0.2 s pass, as long as a quarter of a shard
    takes, so that tasks are several shards; the last ones are small, for all workers to end together.
    """
    start = 0
    while start < count:
        size = min(_SHARDS_OF_TASK, max(1, (count - start) // (2 * max(1, workers))))
        yield range(start, start + size)
        start += size


def claim_destination(destination: Location, config: DataConfig) -> dict[str, dict[str, Any]]:
    """Check that a dataset may be written to `destination`; the manifest lines, by file, of its shards that are already there and whole.

    Raises
    ------
    InputError
        Where `destination` holds another dataset or anything else, or cannot be written.
    """
    if isinstance(destination, Path):
        check_placement(destination, "destination")
    present = list_files(destination)
    recorded = _read_recorded(destination, config) if MANIFEST_FILE in present else None
    if recorded is None:
        _check_names(destination, config, present)
    shards = [shard for shard in plan_shards(config) if shard.file in present]
    with ThreadPoolExecutor(READERS if isinstance(destination, Url) else 1) as pool:
        found = list(pool.map(lambda shard: find_shard(config, destination, shard, recorded), shards))
    if recorded is None and any(one.record and one.record["rows_config"] not in rows_hashes(config) for one in found):
        raise InputError(f"destination {str(destination)!r} holds rows of another configuration; choose another folder")
    for shard, one in zip(shards, found, strict=True):
        if one.is_foreign:
            raise InputError(
                f"destination {str(destination)!r} holds {shard.file!r} with rows that {made_by(config)} did not write; "
                "move the file away to have it made again, or import rows of your own with `neural-hamilton import`"
            )
    _probe(destination, is_begun=CARD_FILE in present)
    remove_partial_files(destination)
    return {shard.file: one.line for shard, one in zip(shards, found, strict=True) if one.line}


def _read_recorded(destination: Location, config: DataConfig) -> dict[str, dict[str, Any]]:
    """The lines of a manifest that is there, by file; InputError where it is that of another dataset."""
    recorded = read_manifest(destination)
    if is_imported(read_config(recorded)) and not is_imported(config):
        raise InputError(f"destination {str(destination)!r} holds imported rows, which generate never replaces; choose another folder")
    before = recorded["config"] | {"rows_version": recorded.get("rows_version")}
    difference = changed_keys(before, config.model_dump(mode="json") | {"rows_version": rows_config(config)["rows_version"]})
    if difference:
        raise InputError(f"destination {str(destination)!r} already holds a dataset with {difference}; choose another folder")
    return {line["file"]: line for line in recorded["files"]}


def _check_names(destination: Location, config: DataConfig, present: Iterable[str]) -> None:
    """A folder without a manifest must be empty, or hold files of this very dataset."""
    expected = {CARD_FILE, LOCK_FILE, *(shard.file for shard in plan_shards(config))}
    for name in present:
        if name not in expected and not name.endswith(".partial") and not is_litter(name.rpartition("/")[2]):
            raise InputError(f"destination {str(destination)!r} holds {name!r}, which is not part of this dataset; choose another folder")


def _probe(destination: Location, is_begun: bool) -> None:
    """Refuse a destination that cannot be written before any row is made."""
    if isinstance(destination, Url):
        if not is_begun:  # no file to be deleted again: permission for that may be missing
            write_file(destination / CARD_FILE, _UNFINISHED)
        return
    try:
        destination.mkdir(parents=True, exist_ok=True)
        probe = destination / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"destination {str(destination)!r} cannot be written: {error.strerror}") from None


def remove_partial_files(destination: Location) -> None:
    """What processes that were killed had begun to write."""
    for name in list_files(destination):
        path = destination / name
        if path.name.startswith(".") and path.name.endswith(".partial"):
            path.unlink(missing_ok=True)


def build_manifest(config: DataConfig, files: list[dict[str, Any]]) -> dict[str, Any]:
    """The manifest of a dataset whose files have these lines."""
    totals: dict[str, Counter[str]] = {"rejections": Counter(), "certificates": Counter()}
    for line in files:
        for name, total in totals.items():
            total.update(line[name])
    return {
        "schema_version": DATASET_SCHEMA_VERSION,
        "system": config.system,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "rows_version": rows_config(config)["rows_version"],
        "counts": config.counts,
        **{name: dict(sorted(total.items())) for name, total in totals.items()},
        "files": files,
        "dataset_hash": hash_json([(line["file"], line["sha256"]) for line in files]),
        "code_version": code_version(),
    }
