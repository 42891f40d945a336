"""Reading and inspecting datasets."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics import InputError
from ...physics.ensembles import SPLITS
from ...physics.solvers.reference import solve_control_polygon
from ..provenance import hash_file
from .generation import read_manifest
from .schema import dataset_schema, tensor_column

_MAX_REFERENCE_ERROR = 1e-10  # what the reference solver itself may be wrong by


@dataclass(frozen=True)
class RowFile:
    """A Parquet file of a dataset, and how many of its first rows are wanted."""

    path: Path
    rows: int
    sha256: str

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The wanted rows. InputError where the file is missing, damaged, or not the one that the manifest lists."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"{self.path} is missing; run generate again to complete the dataset") from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(
                f"{self.path} is damaged or replaced: its checksum is not the manifest's; run generate again to repair the dataset"
            )
        return pq.read_table(pa.BufferReader(content), columns=columns).slice(0, self.rows)


@dataclass(frozen=True)
class TrainingRows:
    """The columns that training reads, rows first; tensors in the stored dtype."""

    potential: np.ndarray  # (N, S)
    times: np.ndarray  # (N, T)
    q: np.ndarray  # (N, T)
    p: np.ndarray  # (N, T)
    initial: np.ndarray  # (N, 2)

    @classmethod
    def from_table(cls, table: pa.Table) -> "TrainingRows":
        return cls(**_training_columns(table))

    def __len__(self) -> int:
        return len(self.potential)

    @property
    def distinct_times(self) -> np.ndarray:
        """(1, T) where all rows share their query times, so that networks may use it, else (N, T)."""
        return self.times[:1] if np.all(self.times == self.times[:1]) else self.times


@dataclass(frozen=True)
class Split(TrainingRows):
    """What evaluation reads besides."""

    trajectory_id: np.ndarray  # (N,)
    stratum: np.ndarray  # (N,)
    energy: np.ndarray  # (N,)
    integration_error: np.ndarray  # (N,)
    control: list[tuple[np.ndarray, np.ndarray]]  # N pairs of control_q, control_v


def list_files(folder: Path, split: str, max_rows: int | None = None) -> list[RowFile]:
    """The files that hold the first `max_rows` rows of a split (all by default).

    Raises
    ------
    InputError
        For an unknown, empty or short split.
    """
    manifest = read_manifest(folder)
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    available = manifest["counts"][split]
    if available == 0:
        raise InputError(f"split {split!r} of dataset {str(folder)!r} has no rows; generate it with --{split} N")
    if max_rows is not None and max_rows > available:
        raise InputError(f"{max_rows} rows of split {split!r} were asked for; dataset {str(folder)!r} has {available}")
    wanted, files = max_rows or available, []
    for line in manifest["files"]:
        if line["split"] == split and wanted > 0:
            files.append(RowFile(folder / line["file"], min(wanted, line["rows"]), line["sha256"]))
            wanted -= line["rows"]
    return files


def read_rows(files: list[RowFile]) -> TrainingRows:
    """The rows of several files, in order; InputError as `RowFile.read`."""
    return TrainingRows.from_table(pa.concat_tables([file.read(_TRAINING_COLUMNS) for file in files]))


def read_split(folder: str | Path, split: str, max_rows: int | None = None) -> Split:
    """The first `max_rows` rows of a split (all by default); InputError as `list_files` and `RowFile.read`."""
    table = pa.concat_tables([file.read() for file in list_files(Path(folder), split, max_rows)])
    control = zip(table.column("control_q").to_pylist(), table.column("control_v").to_pylist(), strict=True)
    return Split(
        **_training_columns(table),
        **{name: np.asarray(table.column(name)) for name in ("trajectory_id", "stratum", "energy", "integration_error")},
        control=[(np.array(q), np.array(v)) for q, v in control],
    )


_TRAINING_COLUMNS = ["potential", "times", "q", "p", "q0", "p0"]


def _training_columns(table: pa.Table) -> dict[str, np.ndarray]:
    tensors = {name: tensor_column(table, name) for name in ("potential", "times", "q", "p")}
    return tensors | {"initial": np.stack([np.asarray(table.column(name)) for name in ("q0", "p0")], axis=1)}


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
