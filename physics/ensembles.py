"""Ensembles of random problems: a potential, an initial state and query times, from counters alone.

Every number drawn here comes from a Philox counter keyed by (seed, split, stream, index, attempt), so
a row does not depend on which rows were drawn before it, by whom, or in what order.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .curves import CurvePotential
from .errors import InputError
from .random_fields import gaussian_random_field
from .trajectories import Rejection, Trajectory, solve_certified

HORIZON = 2.0
WALL_HEIGHT = 2.0
SPLITS = ("train", "val", "test")
PRESETS = ("paper", "phase-space")
_ID_STRIDE = 1 << 40  # ids of one split; larger than any dataset
_MAX_ATTEMPTS = 20

# The fixed range that maps a paper-preset field to heights; 100,000 draws stay inside it.
_FIELD_RANGE = 4.6
_ENERGY_STRATA = ((0.05, 0.35), (0.35, 0.65), (0.65, 0.95), (0.95, 0.99))


class _Stream(IntEnum):
    POTENTIAL = 0
    ORBIT = 1
    NOISE = 2


@dataclass(frozen=True)
class Ensemble:
    """The distribution of a preset.

    `paper` (arXiv 2410.20951 v1): heights in [-2, 2], start (0, 0), uniform times.
    `phase-space`: heights in [2 - depth, 1.9], four orbits a potential at stratified energies below the
    walls, random times.
    """

    preset: str
    control_points: tuple[int, int] = (2, 7)
    length_scale: tuple[float, float] = (0.01, 0.2)
    depth: tuple[float, float] = (0.5, 3.5)
    num_times: int = 100
    integrator: str = "rk4"
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"preset is {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.num_times < 3:
            raise InputError(f"num_times is {self.num_times}; at least 3 are needed")

    @property
    def orbits_per_potential(self) -> int:
        return len(_ENERGY_STRATA) if self.preset == "phase-space" else 1


@dataclass(frozen=True)
class Problem:
    """One solved row; `length_scale`, `depth` and `stratum` say how it was drawn (None where a preset has none)."""

    trajectory_id: int
    potential_id: int
    potential: CurvePotential
    control_q: np.ndarray
    control_v: np.ndarray
    q0: float
    p0: float
    trajectory: Trajectory
    length_scale: float
    depth: float | None
    stratum: int | None


def draw_problem(ensemble: Ensemble, seed: int, split: str, index: int) -> tuple[Problem, list[Rejection]]:
    """Row `index` of `split`: the first attempt that can be certified, and why the earlier ones could not.

    A pure function of its arguments.
    """
    split_code = SPLITS.index(split)
    potential_index, stratum = divmod(index, ensemble.orbits_per_potential)
    rejections: list[Rejection] = []
    for attempt in range(_MAX_ATTEMPTS):
        if ensemble.preset == "paper":
            draw = _draw_potential(ensemble, seed, split_code, potential_index, attempt)
            q0, p0, times = 0.0, 0.0, _round_times(np.linspace(0.0, HORIZON, ensemble.num_times))
        else:
            # Orbits share their potential, so only the orbit may be drawn again.
            draw = _draw_potential(ensemble, seed, split_code, potential_index, 0)
            q0, p0, times = _draw_orbit(ensemble, draw.potential, _generator(seed, split_code, _Stream.ORBIT, index, attempt), stratum)
        outcome = solve_certified(draw.potential, q0, p0, times, method=ensemble.integrator, tolerance=ensemble.tolerance)
        if isinstance(outcome, Rejection):
            rejections.append(outcome)
            continue
        problem = Problem(
            trajectory_id=split_code * _ID_STRIDE + index,
            potential_id=split_code * _ID_STRIDE + potential_index,
            potential=draw.potential,
            control_q=draw.control_q,
            control_v=draw.control_v,
            q0=q0,
            p0=p0,
            trajectory=outcome,
            length_scale=draw.length_scale,
            depth=draw.depth,
            stratum=stratum if ensemble.orbits_per_potential > 1 else None,
        )
        return problem, rejections
    raise InputError(
        f"row {index} of split {split!r} was rejected {_MAX_ATTEMPTS} times "
        f"({', '.join(sorted({r.value for r in rejections}))}); widen the tolerance or soften the ensemble"
    )


def draw_noise(seed: int, split: str, index: int, num_sensors: int) -> np.ndarray:
    """Standard normals (num_sensors,) for the sensor noise of a row."""
    return _generator(seed, SPLITS.index(split), _Stream.NOISE, index, 0).standard_normal(num_sensors)


@dataclass(frozen=True)
class _PotentialDraw:
    potential: CurvePotential
    control_q: np.ndarray
    control_v: np.ndarray
    length_scale: float
    depth: float | None


def _generator(seed: int, split_code: int, stream: _Stream, index: int, attempt: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, split_code * len(_Stream) + stream], counter=[0, attempt, index, 0]))


def _draw_potential(ensemble: Ensemble, seed: int, split_code: int, potential_index: int, attempt: int) -> _PotentialDraw:
    rng = _generator(seed, split_code, _Stream.POTENTIAL, potential_index, attempt)
    num_inner = int(rng.integers(ensemble.control_points[0], ensemble.control_points[1], endpoint=True))
    length_scale = float(rng.uniform(*ensemble.length_scale))
    j = np.arange(num_inner)
    # Gaps keep the abscissae apart and off the walls, so that q(u) increases; narrower cells shrink them.
    gap = np.full(num_inner + 1, min(0.025, 0.2 / num_inner))
    gap[[0, -1]] = min(0.05, 0.4 / num_inner)
    abscissae = rng.uniform(gap[:-1] + j / num_inner, (j + 1) / num_inner - gap[1:])
    field = gaussian_random_field(rng.standard_normal(num_inner), length_scale)
    depth = None
    if ensemble.preset == "paper":
        heights = WALL_HEIGHT - 4.0 * (field + _FIELD_RANGE) / (2.0 * _FIELD_RANGE)
    else:
        depth = float(rng.uniform(*ensemble.depth))
        scaled = (field - field.min()) / (field.max() - field.min())
        heights = WALL_HEIGHT - depth + scaled * (depth - 0.1)
    control_q = np.concatenate([[0.0], abscissae, [1.0]])
    control_v = np.concatenate([[WALL_HEIGHT], heights, [WALL_HEIGHT]])
    return _PotentialDraw(CurvePotential.from_control_points(control_q, control_v), control_q, control_v, length_scale, depth)


def _draw_orbit(ensemble: Ensemble, potential: CurvePotential, rng: np.random.Generator, stratum: int) -> tuple[float, float, np.ndarray]:
    q0 = float(rng.uniform())
    floor = float(potential.value(np.array(q0)))
    # E = V(q0) + u (2 - V(q0)) < 2 keeps the orbit between the walls by construction.
    kinetic = float(rng.uniform(*_ENERGY_STRATA[stratum])) * (WALL_HEIGHT - floor)
    sign = 1.0 if rng.integers(2) else -1.0
    inner = np.sort(rng.uniform(0.0, HORIZON, ensemble.num_times - 2))
    return q0, sign * float(np.sqrt(2.0 * kinetic)), _round_times(np.concatenate([[0.0], inner, [HORIZON]]))


def _round_times(times: np.ndarray) -> np.ndarray:
    """The nearest float32, so that stored query times are exact in either dtype and owe the label nothing."""
    return times.astype(np.float32).astype(np.float64)
