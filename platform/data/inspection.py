"""Inspecting a dataset: its files against the manifest, its rows against an independent solver."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...physics.systems.generic import reference as solve_independently
from ..config import DataConfig
from ..provenance import hash_file
from ..storage import Location, fetched, locate
from .datasets import read_own_columns
from .manifest import read_config, read_manifest
from .schema import dataset_schema, is_imported, state_column, tensor_column

_MAX_REFERENCE_ERROR = 1e-10  # what the reference solver itself may be wrong by
_NOISES = 8.0  # standard deviations by which no sensor of a dataset is off
_SUMMATION = 1e-12  # by which sums in another order may differ
_SUMMARISED = ("integration_error", "energy_drift")
_MEASURED = 1e-6  # relative and absolute, of what only the motion gives


def inspect_dataset(folder: Location, recheck: int = 0, on_row: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Schema, counts, checksums and certificates of a dataset; `recheck` random rows are solved again by an independent solver.

    Problems are values: `problems` lists every damaged, missing or surprising file and every row whose
    certificate does not hold.
    """
    folder = locate(folder)
    manifest = read_manifest(folder)
    config = read_config(manifest)
    expected = dataset_schema(config)
    problems, sound, columns = [], [], list[dict[str, np.ndarray]]()
    for line in manifest["files"]:
        read = _check_file(folder / line["file"], line["sha256"], expected)
        if isinstance(read, str):
            problems.append(f"{line['file']}: {read}")
        else:
            sound.append(line)
            columns.append(read)
    certificates, drifts = (np.concatenate([np.empty(0), *(read[name] for read in columns)]) for name in _SUMMARISED)
    report = {
        "dataset": str(folder),
        "schema": {field.name: str(field.type) for field in expected},
        "system": manifest["system"],
        "ensemble": config.distribution.name,
        "counts": manifest["counts"],
        "rejections": manifest["rejections"],
        "bytes": sum(line["bytes"] for line in manifest["files"]),
        "dataset_hash": manifest["dataset_hash"],
        "integration_error": None if is_imported(config) else _summary(certificates),
        "energy_drift": _summary(drifts),
    }
    if recheck:
        report["recheck"], failures = (_recheck_imported if is_imported(config) else _recheck)(config, folder, sound, recheck, on_row)
        problems.extend(failures)
    if is_imported(config):
        report["imported"] = manifest.get("imported", {})
    report["problems"] = problems
    return report


def _check_file(location: Location, checksum: str, expected: pa.Schema) -> dict[str, np.ndarray] | str:
    """The columns that the report summarises, or what is wrong with the file."""
    try:
        with fetched(location) as path:
            if hash_file(path) != checksum:
                return "its bytes do not match the manifest's checksum"
            if not pq.read_schema(path).equals(expected):
                return "its columns are not those of the dataset schema"
            table = pq.read_table(path, columns=list(_SUMMARISED))
            return {name: np.asarray(table.column(name)) for name in _SUMMARISED}
    except FileNotFoundError:
        return "it is missing"
    except (OSError, pa.ArrowException) as error:
        return f"it cannot be read: {error}"


def _read_table(location: Location) -> pa.Table:
    with fetched(location) as path:
        return pq.read_table(path)


def _summary(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    return {"median": float(np.median(values)), "p99": float(np.quantile(values, 0.99)), "max": float(values.max())}


def _recheck(
    config: DataConfig, folder: Location, lines: list[dict[str, Any]], count: int, on_row: Callable[[], None]
) -> tuple[dict[str, Any], list[str]]:
    """Integrate again rows picked at random from the sound files: the worst deviation, and rows beyond their certificate."""
    worst, failures, rows = 0.0, [], 0
    for row in _choose_rows(folder, lines, count):
        error, complaints = check_row(config, row)
        worst, rows = max(worst, error), rows + 1
        failures.extend(f"trajectory {row.column('trajectory_id')[0]}: {complaint}" for complaint in complaints)
        on_row()
    return {"rows": rows, "largest_difference": worst}, failures


def _recheck_imported(
    config: DataConfig, folder: Location, lines: list[dict[str, Any]], count: int, on_row: Callable[[], None]
) -> tuple[dict[str, Any], list[str]]:
    """How far imported rows picked at random are from an independent solver. A difference is no failure: there is no certificate to hold
    it against, and V between the sensors is a guess.
    """
    system, differences, broken = config.get_system(), [], 0
    for row in _choose_rows(folder, lines, count):
        times, q, p = (tensor_column(row, name).astype(np.float64) for name in ("times", "q", "p"))
        hamiltonian = system.from_sensors({name: tensor_column(row, name).astype(np.float64) for name in system.fields})
        q0, p0 = (state_column(row, name) for name in ("q0", "p0"))
        true_q, true_p = solve_independently(hamiltonian, q0, p0, times)
        difference = max(float(np.max(np.abs(q - true_q))), float(np.max(np.abs(p - true_p))))
        if np.isfinite(difference):
            differences.append(difference)
        else:
            broken += 1
        on_row()
    compared = "V interpolated between the sensors; imported rows carry no certificate, so a difference may be an error of either"
    return {"rows": len(differences), "not_solved": broken, "difference": _summary(np.array(differences)), "compared_with": compared}, []


def _choose_rows(folder: Location, lines: list[dict[str, Any]], count: int) -> Iterator[pa.Table]:
    """Rows picked at random from these files, each as a table."""
    owners = np.repeat(np.arange(len(lines)), [line["rows"] for line in lines])
    chosen = np.random.default_rng(0).permutation(owners.size)[:count]
    starts = np.cumsum([0] + [line["rows"] for line in lines])
    read = functools.lru_cache(maxsize=8)(lambda index: _read_table(folder / lines[index]["file"]))
    for position in np.sort(chosen):
        owner = int(owners[position])
        yield read(owner).slice(int(position - starts[owner]), 1)


def check_row(config: DataConfig, row: pa.Table) -> tuple[float, list[str]]:
    """How far one stored row is from an independent solver, and what of it does not follow from its own Hamiltonian and initial state."""
    system, own = config.get_system(), read_own_columns(row, config.get_system())
    times, q, p = (tensor_column(row, name) for name in ("times", "q", "p"))
    q0, p0 = (state_column(row, name) for name in ("q0", "p0"))
    bound = float(row.column("integration_error")[0].as_py())
    complaints = []
    if not bound <= config.tolerance:
        complaints.append(f"its certified bound is {bound:.2e}, more than the dataset's tolerance, {config.tolerance:.2e}")

    true_q, true_p = system.reference(own, q0, p0, times.astype(np.float64))
    error = max(float(np.max(np.abs(q - true_q))), float(np.max(np.abs(p - true_p))))
    allowed = min(bound, config.tolerance) + _MAX_REFERENCE_ERROR + _rounding(np.stack([q, p]))
    if not error <= allowed:
        complaints.append(f"re-integration differs by {error:.2e}, more than the certified {allowed:.2e}")

    hamiltonian = system.rebuild(own)
    energy, stored = float(hamiltonian.energy(q0, p0)[0]), float(row.column("energy")[0].as_py())
    if not abs(energy - stored) <= _MAX_REFERENCE_ERROR * max(1.0, abs(energy)):
        complaints.append(f"its energy is {stored:.9g}, and {energy:.9g} by its Hamiltonian")
    for name, values in hamiltonian.sense(config.sensor_shape).items():
        sensed = tensor_column(row, name)
        difference = float(np.max(np.abs(sensed - values)))
        if not difference <= _rounding(values.astype(sensed.dtype)) + _NOISES * config.noise + _SUMMATION:
            complaints.append(f"{name} differs by {difference:.2e} from that of its Hamiltonian")
    for name, values in system.measure(hamiltonian, q0, p0, times.astype(np.float64)).items():
        if not np.allclose(own[name], values, rtol=_MEASURED, atol=_MEASURED):
            complaints.append(f"{name} is {own[name][0]:.6g}, and {values[0]:.6g} when it is measured again")
    return error, complaints


def _rounding(values: np.ndarray) -> float:
    return float(np.finfo(values.dtype).eps) * max(1.0, float(np.abs(values).max()))
