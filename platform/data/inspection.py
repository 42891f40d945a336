"""Inspecting a dataset: its files against the manifest, its rows against an independent solver."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics.systems import System
from ..provenance import hash_file
from .datasets import read_own_columns
from .manifest import read_config, read_manifest
from .schema import dataset_schema, state_column, tensor_column

_MAX_REFERENCE_ERROR = 1e-10  # what the reference solver itself may be wrong by


def inspect_dataset(folder: Path, recheck: int = 0, on_row: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Schema, counts, checksums and certificates of a dataset; `recheck` random rows are solved again by an independent solver.

    Problems are values: `problems` lists every damaged, missing or surprising file and every row whose
    certificate does not hold.
    """
    manifest = read_manifest(folder)
    config = read_config(manifest)
    expected = dataset_schema(config)
    problems, sound = [], []
    for line in manifest["files"]:
        problem = _file_problem(folder / line["file"], line["sha256"], expected)
        problems.extend([f"{line['file']}: {problem}"] if problem else [])
        sound.extend([] if problem else [line])
    certificates, drifts = (_column(folder, sound, name) for name in ("integration_error", "energy_drift"))
    report = {
        "dataset": str(folder),
        "schema": {field.name: str(field.type) for field in expected},
        "system": manifest["system"],
        "ensemble": config.distribution.name,
        "counts": manifest["counts"],
        "rejections": manifest["rejections"],
        "bytes": sum(line["bytes"] for line in manifest["files"]),
        "dataset_hash": manifest["dataset_hash"],
        "integration_error": _summary(certificates),
        "energy_drift": _summary(drifts),
    }
    if recheck:
        report["recheck"], failures = _recheck(config.get_system(), folder, sound, recheck, on_row)
        problems.extend(failures)
    report["problems"] = problems
    return report


def _file_problem(path: Path, checksum: str, expected: pa.Schema) -> str | None:
    try:
        if hash_file(path) != checksum:
            return "its bytes do not match the manifest's checksum"
        if not pq.read_schema(path).equals(expected):
            return "its columns are not those of the dataset schema"
    except FileNotFoundError:
        return "it is missing"
    except (OSError, pa.ArrowException) as error:
        return f"it cannot be read: {error}"
    return None


def _column(folder: Path, lines: list[dict[str, Any]], name: str) -> np.ndarray:
    parts = [np.asarray(pq.read_table(folder / line["file"], columns=[name]).column(name)) for line in lines]
    return np.concatenate(parts) if parts else np.empty(0)


def _summary(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    return {"median": float(np.median(values)), "p99": float(np.quantile(values, 0.99)), "max": float(values.max())}


def _recheck(
    system: System, folder: Path, lines: list[dict[str, Any]], count: int, on_row: Callable[[], None]
) -> tuple[dict[str, Any], list[str]]:
    """Integrate again rows picked at random from the sound files: the worst deviation, and rows beyond their certificate."""
    owners = np.repeat(np.arange(len(lines)), [line["rows"] for line in lines])
    chosen = np.random.default_rng(0).permutation(owners.size)[:count]
    starts = np.cumsum([0] + [line["rows"] for line in lines])
    read = functools.lru_cache(maxsize=8)(lambda index: pq.read_table(folder / lines[index]["file"]))
    worst, failures = 0.0, []
    for position in np.sort(chosen):
        owner = int(owners[position])
        row = read(owner).slice(int(position - starts[owner]), 1)
        error, allowed = _deviation(system, row)
        worst = max(worst, error)
        if not error <= allowed:
            failures.append(
                f"trajectory {row.column('trajectory_id')[0]}: re-integration differs by {error:.2e}, more than the certified {allowed:.2e}"
            )
        on_row()
    return {"rows": len(chosen), "largest_difference": worst}, failures


def _deviation(system: System, row: pa.Table) -> tuple[float, float]:
    """How far one stored row is from the reference, and how far its certificate, rounding and the reference allow it to be."""
    times, q, p = (tensor_column(row, name) for name in ("times", "q", "p"))
    q0, p0 = (state_column(row, name) for name in ("q0", "p0"))
    true_q, true_p = system.reference(read_own_columns(row, system), q0, p0, times.astype(np.float64))
    rounding = float(np.finfo(q.dtype).eps) * max(1.0, float(np.abs(p).max()))
    error = max(float(np.max(np.abs(q - true_q))), float(np.max(np.abs(p - true_p))))
    return error, float(row.column("integration_error")[0].as_py()) + _MAX_REFERENCE_ERROR + rounding
