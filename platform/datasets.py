"""Reading and inspecting datasets."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..physics import InputError
from ..physics.ensembles import SPLITS
from ..physics.reference import solve_control_polygon
from .generation import read_manifest
from .provenance import hash_file
from .schema import dataset_schema, tensor_column

_MAX_REFERENCE_ERROR = 1e-10  # what the reference solver itself may be wrong by


@dataclass(frozen=True)
class Split:
    """The columns training and evaluation read, rows first; float64 states, tensors in the stored dtype."""

    potential: np.ndarray  # (N, S)
    times: np.ndarray  # (N, T)
    q: np.ndarray  # (N, T)
    p: np.ndarray  # (N, T)
    initial: np.ndarray  # (N, 2)
    energy: np.ndarray  # (N,)
    integration_error: np.ndarray  # (N,)
    control: list[tuple[np.ndarray, np.ndarray]]  # N pairs of control_q, control_v

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def distinct_times(self) -> np.ndarray:
        """(1, T) where all rows share their query times, so that networks may use it, else (N, T)."""
        return self.times[:1] if np.all(self.times == self.times[:1]) else self.times


def read_split(folder: str | Path, split: str, max_rows: int | None = None) -> Split:
    """The first `max_rows` rows of a split (all by default).

    Raises
    ------
    InputError
        For an unknown, empty or short split, or a missing or truncated file, naming it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    available = manifest["counts"][split]
    if available == 0:
        raise InputError(f"split {split!r} of dataset {str(folder)!r} has no rows; generate it with --{split} N")
    if max_rows is not None and max_rows > available:
        raise InputError(f"{max_rows} rows of split {split!r} were asked for; dataset {str(folder)!r} has {available}")
    wanted, tables, rows = max_rows or available, [], 0
    for line in manifest["files"]:
        if line["split"] == split and rows < wanted:
            tables.append(_read_file(folder / line["file"], line["rows"]))
            rows += line["rows"]
    table = pa.concat_tables(tables).slice(0, wanted)
    columns = {name: np.asarray(table.column(name)) for name in ("q0", "p0", "energy", "integration_error")}
    control = zip(table.column("control_q").to_pylist(), table.column("control_v").to_pylist(), strict=True)
    return Split(
        **{name: tensor_column(table, name) for name in ("potential", "times", "q", "p")},
        initial=np.stack([columns["q0"], columns["p0"]], axis=1),
        energy=columns["energy"],
        integration_error=columns["integration_error"],
        control=[(np.array(q), np.array(v)) for q, v in control],
    )


def _read_file(path: Path, rows: int) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run generate again to complete the dataset") from None
    except (OSError, pa.ArrowException):
        raise InputError(f"{path} is damaged or truncated; run generate again to repair the dataset") from None
    if table.num_rows != rows:
        raise InputError(f"{path} has {table.num_rows} rows and the manifest says {rows}; run generate again to repair the dataset")
    return table


def inspect_dataset(folder: Path, recheck: int = 0, on_row: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Schema, counts, checksums and certificates of a dataset; `recheck` random rows are solved again by SciPy.

    Problems are values: `problems` lists every damaged, missing or surprising file and every row whose
    certificate does not hold.
    """
    manifest = read_manifest(folder)
    config = manifest["config"]
    expected = dataset_schema(config["sensors"], config["times"], config["dtype"])
    problems, sound = [], []
    for line in manifest["files"]:
        problem = _file_problem(folder / line["file"], line["sha256"], expected)
        problems.extend([f"{line['file']}: {problem}"] if problem else [])
        sound.extend([] if problem else [line])
    certificates, drifts = (_column(folder, sound, name) for name in ("integration_error", "energy_drift"))
    report = {
        "dataset": str(folder),
        "schema": {field.name: str(field.type) for field in expected},
        "preset": manifest["preset"],
        "counts": manifest["counts"],
        "rejections": manifest["rejections"],
        "bytes": sum(line["bytes"] for line in manifest["files"]),
        "dataset_hash": manifest["dataset_hash"],
        "integration_error": _summary(certificates),
        "energy_drift": _summary(drifts),
    }
    if recheck:
        report["recheck"], failures = _recheck(folder, sound, recheck, on_row)
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


def _recheck(folder: Path, lines: list[dict[str, Any]], count: int, on_row: Callable[[], None]) -> tuple[dict[str, Any], list[str]]:
    """Re-integrate rows picked at random from the sound files; worst deviation, and rows beyond their certificate."""
    owners = np.repeat(np.arange(len(lines)), [line["rows"] for line in lines])
    chosen = np.random.default_rng(0).permutation(owners.size)[:count]
    starts = np.cumsum([0] + [line["rows"] for line in lines])
    read = functools.lru_cache(maxsize=8)(lambda index: pq.read_table(folder / lines[index]["file"]))
    worst, failures = 0.0, []
    for position in np.sort(chosen):
        owner = int(owners[position])
        row = read(owner).slice(int(position - starts[owner]), 1)
        values = {
            name: row.column(name)[0].as_py() for name in ("trajectory_id", "q0", "p0", "integration_error", "control_q", "control_v")
        }
        times, q, p = (tensor_column(row, name)[0] for name in ("times", "q", "p"))
        rounding = float(np.finfo(q.dtype).eps) * max(1.0, float(np.abs(p).max()))
        true_q, true_p = solve_control_polygon(
            values["control_q"], values["control_v"], values["q0"], values["p0"], times.astype(np.float64)
        )
        error = max(float(np.max(np.abs(q - true_q))), float(np.max(np.abs(p - true_p))))
        allowed = values["integration_error"] + _MAX_REFERENCE_ERROR + rounding
        worst = max(worst, error)
        if not error <= allowed:
            failures.append(
                f"trajectory {values['trajectory_id']}: re-integration differs by {error:.2e}, more than the certified {allowed:.2e}"
            )
        on_row()
    return {"rows": len(chosen), "largest_difference": worst}, failures
