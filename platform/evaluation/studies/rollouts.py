"""Beyond the horizon: windows chained end to end, for networks that take any start.

Shapes: N problems, W windows, T times of all windows together.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ....architectures import Operator
from ....physics import certify
from ....physics.diagnostics import energy_drift
from ....physics.potentials.textbook import WALL_HEIGHT
from ....physics.systems import get_system
from ..answers import predict
from ..metrics import count_broken
from ..problems import Problems
from ..solvers import Baseline, reconstruct, run_solver

HORIZON = get_system("well").horizon

LOST = 0.1  # distance in the plane of q and p at which an answer no longer says where the particle is
_TIMES_A_WINDOW = 20


def measure_horizons(model: Operator, baselines: list[Baseline], problems: Problems, num_windows: int, batch_size: int) -> dict[str, Any]:
    """The network chained over `num_windows` windows, and solvers over the whole time, against certified orbits.

    Per solver: `valid_time` (median, and its p05), until the answer is further than `LOST` from the truth; `phase_error`, the
    median over orbits of abs(lag) at the end of each window, in units of time; `drift_slope`, the median slope of
    the energy's error per unit of time, as a share of the well's depth; `error`, the median distance at the end of each window.
    """
    times = np.arange(1, num_windows * _TIMES_A_WINDOW + 1) * (HORIZON / _TIMES_A_WINDOW)
    everyone = np.tile(times, (len(problems), 1))
    depth, (q0, p0) = WALL_HEIGHT - problems.lowest, problems.initial.T
    truth = certify(problems.exact, q0, p0, everyone, energy_scale=depth, domain=(0.0, 1.0), largest_potential=10.0)
    known = np.array([reason is None for reason in truth.rejection])
    kept = problems.take(np.flatnonzero(known))
    asked = replace(kept, times=everyone[known], q=truth.q[known], p=truth.p[known])
    answers = {"model": _chain(model, asked, num_windows, batch_size)}
    for baseline in baselines:
        solution = run_solver(baseline, reconstruct(baseline.potential, asked).curves, asked)
        answers[baseline.name] = solution.q, solution.p
    return {
        "windows": num_windows,
        "horizon": num_windows * HORIZON,
        "rows": len(asked),
        "rows_without_certified_truth": int(np.sum(~known)),
        "solvers": {name: _judge(asked, q, p) for name, (q, p) in answers.items()},
    }


def _chain(model: Operator, problems: Problems, num_windows: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """q, p (N, T): each window starts where the one before ended. Kept within the walls, outside which no start is known."""
    parts, start = [], problems.initial
    window = problems.times[:, :_TIMES_A_WINDOW]
    for _ in range(num_windows):
        answer = predict(model, replace(problems, times=window, initial=start), batch_size)
        parts.append((answer.q, answer.p))
        start = np.stack([np.clip(answer.q[:, -1], 0.0, 1.0), answer.p[:, -1]], axis=1)
    q, p = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return q, p


def _judge(problems: Problems, q: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    times = problems.times[0]
    with np.errstate(all="ignore"):
        error_q, error_p = q - problems.q, p - problems.p
        distance = np.hypot(error_q, error_p)
        lost = ~(distance <= LOST)
        valid = np.where(lost.any(axis=1), times[lost.argmax(axis=1)], times[-1])
        force = -problems.exact.gradient(problems.q)
        # The part of an error along the orbit is a delay; the rest leaves the orbit.
        lag = (error_q * problems.p + error_p * force) / (problems.p**2 + force**2)
        energy = 0.5 * p**2 + problems.exact.value(q)
        drift = (energy - problems.energy[:, None]) / (WALL_HEIGHT - problems.lowest)[:, None]
        slope = np.abs((drift * (times - times.mean())).sum(axis=1) / ((times - times.mean()) ** 2).sum())
        largest = energy_drift(energy - 0.5 * p**2, p, problems.energy, WALL_HEIGHT - problems.lowest)
    ends = slice(_TIMES_A_WINDOW - 1, None, _TIMES_A_WINDOW)
    return {
        "not_finite": count_broken(distance.max(axis=1)),
        "valid_time": {
            "median": float(np.median(valid)),
            "p05": float(np.quantile(valid, 0.05)),
            "share_to_the_end": float(np.mean(~lost.any(axis=1))),
        },
        "error": _medians(distance[:, ends]),
        "phase_error": _medians(np.abs(lag[:, ends])),
        "drift_slope": _median(slope),
        "energy_drift": _median(largest),
    }


def _medians(values: np.ndarray) -> list[float | None]:
    return [_median(column) for column in values.T]


def _median(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None
