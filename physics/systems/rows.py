"""Rows of a dataset in memory: problems drawn by address, solved and certified."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .base import Drawn, Ensemble, Rejection, System
from .draws import SPLITS, Draws

# Raised when the same seed comes to give other rows, so that no dataset mixes the two.
ROWS_VERSION = 2
_ID_STRIDE = 1 << 40  # ids of one split; larger than any dataset
_MAX_ATTEMPTS = 20
_CERTIFIED = ("q", "p", "energy", "integration_error", "energy_drift")


@dataclass(frozen=True)
class Rows:
    """R solved rows of a split.

    `columns` maps names to arrays with R rows: trajectory_id, potential_id, q0, p0, times, q, p, energy, integration_error,
    energy_drift and the system's own columns. `hamiltonians` are the exact ones.
    """

    columns: dict[str, np.ndarray]
    hamiltonians: Any

    def __len__(self) -> int:
        return self.columns["trajectory_id"].size

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(name) from None


def draw_rows(
    system: System,
    ensemble: Ensemble,
    seed: int,
    split: str,
    indices: np.ndarray,
    *,
    num_times: int = 100,
    method: str | None = None,
    tolerance: float = 1e-9,
) -> tuple[Rows, Counter[Rejection]]:
    """Rows `indices` (R,), increasing, of a split: each the first attempt that could be certified, and why others could not.

    A pure function of its arguments. Row by row or all at once, in any grouping, the bytes are the same. A split has no end.

    Raises
    ------
    InputError
        Where a row is rejected 20 times over, with the last reason.
    """
    pending = np.asarray(indices)
    rejections: Counter[Rejection] = Counter()
    latest: dict[int, Rejection] = {}
    parts: list[tuple[dict[str, np.ndarray], Any]] = []
    for attempt in range(_MAX_ATTEMPTS):
        draws = Draws(seed, split, pending, attempt, ensemble.orbits_per_hamiltonian)
        columns, hamiltonians, reasons = _attempt(system, ensemble, draws, num_times, method or system.methods[0], tolerance)
        kept = np.array([reason is None for reason in reasons], dtype=bool)
        parts.append(({name: column[kept] for name, column in columns.items()}, hamiltonians.take(np.flatnonzero(kept))))
        latest = {int(index): reason for index, reason in zip(pending, reasons, strict=True) if reason is not None}
        rejections.update(latest.values())
        pending = pending[~kept]
        if not pending.size:
            return _join(parts, system), rejections
    index, reason = min(latest.items())
    raise InputError(
        f"row {index} of split {split!r} was rejected {_MAX_ATTEMPTS} times (last: {reason.value}); "
        "widen the tolerance or soften the ensemble"
    )


def _attempt(
    system: System, ensemble: Ensemble, draws: Draws, num_times: int, method: str, tolerance: float
) -> tuple[dict[str, np.ndarray], Any, list[Rejection | None]]:
    """Draw and solve each row once: its columns, its Hamiltonian, and why it is rejected."""
    drawn = ensemble.draw(draws, num_times)
    times = drawn.times.astype(np.float32).astype(np.float64)  # exact in either dtype, so query times add no error to the labels
    solved = system.certify(drawn.hamiltonians, drawn.q0, drawn.p0, times, method=method, tolerance=tolerance)
    first_id = SPLITS.index(draws.split) * _ID_STRIDE
    columns = (
        drawn.columns
        | _measure(system, drawn, times, solved.rejection)
        | {
            "trajectory_id": first_id + draws.indices,
            "potential_id": first_id + draws.hamiltonian_index,
            "q0": drawn.q0,
            "p0": drawn.p0,
            "times": times,
        }
    )
    return columns | {name: getattr(solved, name) for name in _CERTIFIED}, drawn.hamiltonians, solved.rejection


def _measure(system: System, drawn: Drawn, times: np.ndarray, rejection: list[Rejection | None]) -> dict[str, np.ndarray]:
    """What the motion of the rows that are kept gives; of others, which nobody sees, nan."""
    kept = np.flatnonzero([reason is None for reason in rejection])
    measured = system.measure(drawn.hamiltonians.take(kept), drawn.q0[kept], drawn.p0[kept], times[kept])
    columns = {name: np.full(len(times), np.nan) for name in measured}
    for name, values in measured.items():
        columns[name][kept] = values
    return columns


def _join(parts: list[tuple[dict[str, np.ndarray], Any]], system: System) -> Rows:
    """The rows of all attempts in the order of their indices."""
    if len(parts) == 1:
        return Rows(*parts[0])
    columns = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    order = np.argsort(columns["trajectory_id"], kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    return Rows(columns, system.rebuild(own_columns(columns, system)))


def own_columns(columns: dict[str, np.ndarray], system: System) -> dict[str, Any]:
    """The system's own columns in the form of `System.rebuild`: a list column as R arrays without padding."""
    own: dict[str, Any] = {}
    for column in system.columns:
        values = columns[column.name]
        own[column.name] = [row[~np.isnan(row)] for row in values] if column.kind == "list" else values
    return own
