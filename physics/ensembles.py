"""Ensembles of random problems: potentials, initial states and query times, from counters alone.

Every number drawn here is at a fixed place of a Philox stream keyed by (seed, split, what is drawn), its
counter set from the row's index and the attempt. So a row does not depend on which rows were drawn
before it, with it, by whom, or in what order; and many rows are drawn at once.
"""

from collections import Counter
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
from scipy.special import ndtri

from .errors import InputError
from .potentials.curves import Curves
from .potentials.random_fields import gaussian_random_fields
from .potentials.textbook import WALL_HEIGHT
from .solvers import Rejection, certify

HORIZON = 2.0
SPLITS = ("train", "val", "test")
PRESETS = ("paper", "phase-space")
# Raised when the same seed comes to give other rows, so that no dataset mixes the two.
ROWS_VERSION = 2
_ID_STRIDE = 1 << 40  # ids of one split; larger than any dataset
_MAX_ATTEMPTS = 20
_LARGEST_POTENTIAL = 10.0

# The fixed range that maps a paper-preset field to heights; 100,000 draws stay inside it.
_FIELD_RANGE = 4.6
_DEPTHS = {"paper": (4.0, 4.0), "phase-space": (0.5, 3.5)}
_LEAST_DROP = 0.1  # of the highest control point of a phase-space potential below the walls
_ENERGY_STRATA = np.array([(0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99)])


class _Stream(IntEnum):
    POTENTIAL = 0
    ORBIT = 1
    NOISE = 2


@dataclass(frozen=True)
class Ensemble:
    """The distribution of a preset; every field but the preset may be changed for a family out of distribution.

    `paper` (arXiv 2410.20951 v1): heights 2 - depth x with x the field over its range and depth 4, start
    (0, 0), uniform times. `phase-space`: heights in [2 - depth, 1.9], depth uniform in [0.5, 3.5], four orbits
    a potential at stratified energies below the walls, random times. `depth` None means the preset's own.
    """

    preset: str
    control_points: tuple[int, int] = (2, 7)
    length_scale: tuple[float, float] = (0.01, 0.2)
    depth: tuple[float, float] | None = None
    num_times: int = 100
    integrator: str = "taylor"
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"preset is {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.num_times < 3:
            raise InputError(f"num_times is {self.num_times}; at least 3 are needed")

    @property
    def orbits_per_potential(self) -> int:
        return len(_ENERGY_STRATA) if self.preset == "phase-space" else 1

    @property
    def depth_range(self) -> tuple[float, float]:
        return self.depth or _DEPTHS[self.preset]


@dataclass(frozen=True)
class Rows:
    """R solved rows of a split, a column a field; T query times, polygons padded to n points.

    ids and `stratum` (R,), the latter -1 where a preset has none; `control_q`, `control_v` (R, n), of which the
    first `num_control` (R,) count; `times`, `q`, `p` (R, T); the rest (R,), `depth` nan where a preset has none.
    """

    trajectory_id: np.ndarray
    potential_id: np.ndarray
    control_q: np.ndarray
    control_v: np.ndarray
    num_control: np.ndarray
    length_scale: np.ndarray
    depth: np.ndarray
    stratum: np.ndarray
    q0: np.ndarray
    p0: np.ndarray
    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy: np.ndarray
    integration_error: np.ndarray
    energy_drift: np.ndarray

    def __len__(self) -> int:
        return self.trajectory_id.size

    @property
    def curves(self) -> Curves:
        """The exact potentials, built again from their control polygons."""
        return Curves.from_control_points(self.control_q, self.control_v, self.num_control)

    def polygon(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Control abscissae and heights of one row, without padding."""
        return self.control_q[row, : self.num_control[row]], self.control_v[row, : self.num_control[row]]


def draw_rows(ensemble: Ensemble, seed: int, split: str, indices: np.ndarray) -> tuple[Rows, Counter[Rejection]]:
    """Rows `indices` (R,), increasing, of `split`, each the first attempt that could be certified, and why others could not.

    A pure function of its arguments; row by row or all at once, in any grouping, the bytes are the same. A split has no end.

    Raises
    ------
    InputError
        Where a row is rejected 20 times over, with the reasons.
    """
    pending = np.asarray(indices)
    rejections: Counter[Rejection] = Counter()
    latest: dict[int, Rejection] = {}
    parts: list[dict[str, np.ndarray]] = []
    for attempt in range(_MAX_ATTEMPTS):
        columns, reasons = _attempt(ensemble, seed, split, pending, attempt)
        kept = np.array([reason is None for reason in reasons], dtype=bool)
        parts.append({name: column[kept] for name, column in columns.items()})
        latest = {int(index): reason for index, reason in zip(pending, reasons, strict=True) if reason is not None}
        rejections.update(latest.values())
        pending = pending[~kept]
        if not pending.size:
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            order = np.argsort(joined["trajectory_id"], kind="stable")
            return Rows(**{field.name: joined[field.name][order] for field in fields(Rows)}), rejections
    index, reason = min(latest.items())
    raise InputError(
        f"row {index} of split {split!r} was rejected {_MAX_ATTEMPTS} times (last: {reason.value}); "
        "widen the tolerance or soften the ensemble"
    )


def draw_noise(seed: int, split: str, indices: np.ndarray, num_sensors: int) -> np.ndarray:
    """Standard normals (R, num_sensors) for the sensor noise of rows `indices` (R,)."""
    return ndtri(_uniforms(seed, SPLITS.index(split), _Stream.NOISE, indices, 0, num_sensors))


def _attempt(
    ensemble: Ensemble, seed: int, split: str, indices: np.ndarray, attempt: int
) -> tuple[dict[str, np.ndarray], list[Rejection | None]]:
    """Draw and solve the rows `indices` (R,) once: their columns, and the reason of each rejection."""
    split_code = SPLITS.index(split)
    potential_indices, stratum = np.divmod(indices, ensemble.orbits_per_potential)
    if ensemble.preset == "paper":
        columns = draw_polygons(ensemble, seed, split, potential_indices, attempt)
        curves = Curves.from_control_points(columns["control_q"], columns["control_v"], columns["num_control"])
        q0, p0 = np.zeros((2, indices.size))
        times = np.tile(np.linspace(0.0, HORIZON, ensemble.num_times), (indices.size, 1))
    else:
        # Orbits share their potential, so only the orbit may be drawn again.
        unique, owner = np.unique(potential_indices, return_inverse=True)
        drawn = draw_polygons(ensemble, seed, split, unique)
        columns = {name: column[owner] for name, column in drawn.items()}
        curves = Curves.from_control_points(drawn["control_q"], drawn["control_v"], drawn["num_control"]).take(owner)
        q0, p0, times = _draw_orbits(ensemble, curves, seed, split_code, indices, attempt)
    times = times.astype(np.float32).astype(np.float64)  # exact in either dtype, so that labels owe query times nothing
    solved = certify(
        curves,
        q0,
        p0,
        times,
        energy_scale=WALL_HEIGHT - curves.extrema()[0],
        domain=(0.0, 1.0),
        largest_potential=_LARGEST_POTENTIAL,
        method=ensemble.integrator,
        tolerance=ensemble.tolerance,
    )
    columns |= {
        "trajectory_id": split_code * _ID_STRIDE + indices,
        "potential_id": split_code * _ID_STRIDE + potential_indices,
        "stratum": stratum if ensemble.orbits_per_potential > 1 else np.full(indices.size, -1),
        "q0": q0,
        "p0": p0,
    }
    columns |= {name: getattr(solved, name) for name in ("times", "q", "p", "energy", "integration_error", "energy_drift")}
    return columns, solved.rejection


def draw_polygons(ensemble: Ensemble, seed: int, split: str, indices: np.ndarray, attempt: int = 0) -> dict[str, np.ndarray]:
    """Control polygons (columns of `Rows`), length scales and depths of the potentials `indices` (R,) of `split`."""
    split_code = SPLITS.index(split)
    fewest, most = ensemble.control_points
    draws = _uniforms(seed, split_code, _Stream.POTENTIAL, indices, attempt, 3 + 2 * most)
    num_inner = fewest + (draws[:, 0] * (most - fewest + 1)).astype(np.int64)
    length_scale = _between(draws[:, 1], ensemble.length_scale)
    depth = _between(draws[:, 2], ensemble.depth_range)
    control_q, control_v = np.zeros((2, indices.size, most + 2))
    for b in np.unique(num_inner):
        rows = np.flatnonzero(num_inner == b)
        # Gaps keep the abscissae apart and off the walls, so that q(u) increases; narrower cells shrink them.
        gap = np.full(b + 1, min(0.025, 0.2 / b))
        gap[[0, -1]] = min(0.05, 0.4 / b)
        low, high = gap[:-1] + np.arange(b) / b, (np.arange(b) + 1) / b - gap[1:]
        control_q[rows, 1 : b + 1] = low + draws[rows, 3 : 3 + b] * (high - low)
        control_q[rows, b + 1] = 1.0
        field = gaussian_random_fields(ndtri(draws[rows, 3 + most : 3 + most + b]), length_scale[rows])
        control_v[rows, 1 : b + 1] = _heights(ensemble.preset, field, depth[rows, None])
        control_v[rows, 0] = control_v[rows, b + 1] = WALL_HEIGHT
    return {
        "control_q": control_q,
        "control_v": control_v,
        "num_control": num_inner + 2,
        "length_scale": length_scale,
        "depth": depth if ensemble.preset == "phase-space" or ensemble.depth else np.full(indices.size, np.nan),
    }


def _heights(preset: str, field: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Control heights (R, b) from a field (R, b) and depths (R, 1)."""
    if preset == "paper":
        return WALL_HEIGHT - depth * (field + _FIELD_RANGE) / (2.0 * _FIELD_RANGE)
    lowest, highest = field.min(axis=1, keepdims=True), field.max(axis=1, keepdims=True)
    return WALL_HEIGHT - depth + (field - lowest) / (highest - lowest) * (depth - _LEAST_DROP)


def _draw_orbits(
    ensemble: Ensemble, curves: Curves, seed: int, split_code: int, indices: np.ndarray, attempt: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q0, p0 (R,) and times (R, T) of the rows `indices` (R,) of the preset phase-space."""
    draws = _uniforms(seed, split_code, _Stream.ORBIT, indices, attempt, 1 + ensemble.num_times)
    q0 = draws[:, 0]
    # E = V(q0) + u (2 - V(q0)) < 2 keeps the orbit between the walls by construction.
    share = _between(draws[:, 1], _ENERGY_STRATA[indices % len(_ENERGY_STRATA)].T)
    speed = np.sqrt(2.0 * share * (WALL_HEIGHT - curves.value(q0)))
    times = np.zeros((indices.size, ensemble.num_times))
    times[:, 1:-1] = np.sort(HORIZON * draws[:, 3:], axis=1)
    times[:, -1] = HORIZON
    return q0, np.where(draws[:, 2] < 0.5, -speed, speed), times


def _uniforms(seed: int, split_code: int, stream: _Stream, indices: np.ndarray, attempt: int, count: int) -> np.ndarray:
    """Uniform numbers in (0, 1), shape (R, count), each at the place of its row `indices` (R,) in the stream."""
    blocks = -(-count // 4)  # a step of the counter gives four numbers
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    draws = [
        np.random.Generator(
            np.random.Philox(key=[seed, split_code * len(_Stream) + stream], counter=[int(run[0]) * blocks, attempt, 0, 0])
        ).random((run.size, 4 * blocks))
        for run in runs
        if run.size
    ]
    return np.maximum(np.concatenate(draws)[:, :count], 2.0**-54)  # zero would be an infinite normal


def _between(uniform: np.ndarray, bounds: Any) -> np.ndarray:
    low, high = bounds
    return low + uniform * (high - low)
