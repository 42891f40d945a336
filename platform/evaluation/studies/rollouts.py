"""Rollouts beyond the horizon: each window starts where the network ended the one before.

Shapes: N problems, W windows, T times of all windows together, d degrees of freedom.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ....physics.systems import Baseline, Problems
from .. import figures
from ..groups import measure_groups
from ..metrics import count_broken, finite_median
from ..study import Study, Subject, has_exact_hamiltonians, takes_any_initial_state

LOST = 0.1  # distance in phase space, over the width of the domain, at which a prediction no longer says where the particle is
LARGEST_ERROR = 0.4  # over the rms of the orbit's state about its mean: Pathak et al., Physical Review Letters 120 (2018), 024102
LARGEST_SMAPE = 30.0  # symmetric mean absolute percentage error: Gilpin, arXiv 2110.05266 (dysts)
TIMES_PER_WINDOW = 20

Predict = Callable[[Problems], Any]


def measure(subject: Subject) -> dict[str, Any]:
    """See `measure_rollouts`."""
    baselines = subject.with_role("rollouts", subject.problems)
    return measure_rollouts(subject.predict, baselines, subject.problems, subject.settings.windows, subject.trained_for.horizon)


def measure_rollouts(predict: Predict, baselines: list[Baseline], problems: Problems, num_windows: int, horizon: float) -> dict[str, Any]:
    """The network over `num_windows` windows of one horizon each, and baselines over the whole time, against certified orbits.

    For each: `valid_time` (median and p05) until the prediction is further than `LOST` from the truth, and the fraction that
    never is; `error`, the median distance at the end of each window; `phase_error`, the median delay there, in units of time;
    `drift_slope`, the median slope of the energy's error per unit of time, over the energy scale; and `energy_drift`. The same
    in the system's groups of rows.

    `prediction_time` has the medians of two usual definitions, `LARGEST_ERROR` and `LARGEST_SMAPE`; with more than one degree of
    freedom in Lyapunov times too, the inverse of each orbit's exponent over the whole time.
    """
    times = np.arange(1, num_windows * TIMES_PER_WINDOW + 1) * (horizon / TIMES_PER_WINDOW)
    system, everyone = problems.system, np.tile(times, (len(problems), 1))
    truth = system.certify(problems.hamiltonians, problems.q0, problems.p0, everyone, method=system.methods[0], tolerance=_TRUTH_TOLERANCE)
    known = np.array([reason is None for reason in truth.rejection])
    kept = replace(problems.take(np.flatnonzero(known)), times=everyone[known], q=truth.q[known], p=truth.p[known])
    exponents = _exponents(kept) if system.degrees_of_freedom > 1 else None
    states = {"model": roll_out(predict, kept, num_windows)}
    states |= {baseline.name: baseline.states(kept)[:2] for baseline in baselines}
    return {
        "windows": num_windows,
        "horizon": num_windows * horizon,
        "rows": len(kept),
        "rows_without_certified_truth": int(np.sum(~known)),
        "exponent": None if exponents is None else finite_median(exponents),
        "solvers": _judge_all(kept, states, exponents, np.arange(len(kept))),
        "groups": measure_groups(kept, lambda rows: _judge_all(kept, states, exponents, rows)),
    }


_TRUTH_TOLERANCE = 1e-9


def _exponents(problems: Problems) -> np.ndarray:
    """Finite-time Lyapunov exponents (N,) up to the last time."""
    ends = problems.times[:, -1:]
    jacobians = problems.system.tangents(problems.hamiltonians, problems.q0, problems.p0, ends)[:, 0]
    return np.log(np.linalg.norm(jacobians, ord=2, axis=(1, 2))) / ends[:, 0]


def _judge_all(
    problems: Problems, states: dict[str, tuple[np.ndarray, np.ndarray]], exponents: np.ndarray | None, rows: np.ndarray
) -> dict[str, Any]:
    part, own = problems.take(rows), None if exponents is None else exponents[rows]
    return {
        name: _judge(part, q[rows], p[rows]) | {"prediction_time": _prediction_times(part, q[rows], p[rows], own)}
        for name, (q, p) in states.items()
    }


def _prediction_times(problems: Problems, q: np.ndarray, p: np.ndarray, exponents: np.ndarray | None) -> dict[str, float | None]:
    """Medians of the first times at which the error is too large by either definition; an orbit that never is counts to the end."""
    true, predicted = (np.stack(_components(*pair), axis=-1) for pair in ((problems.q, problems.p), (q, p)))
    with np.errstate(all="ignore"):
        spread = np.sqrt(np.square(true - true.mean(axis=1, keepdims=True)).sum(axis=-1).mean(axis=1))
        relative = np.linalg.norm(predicted - true, axis=-1) / spread[:, None]
        smape = 200.0 * (np.abs(predicted - true) / (np.abs(predicted) + np.abs(true))).mean(axis=-1)
    times, result = problems.times[0], {}
    for name, error, largest in (("error", relative, LARGEST_ERROR), ("smape", smape, LARGEST_SMAPE)):
        lost = ~(error <= largest)
        first = np.where(lost.any(axis=1), times[lost.argmax(axis=1)], times[-1])
        result[name] = finite_median(first)
        if exponents is not None:
            result[f"{name}_lyapunov"] = finite_median(first * exponents)
    return result


def roll_out(predict: Predict, problems: Problems, num_windows: int) -> tuple[np.ndarray, np.ndarray]:
    """q, p at all times, in windows of equally many. Between windows positions are clipped to the domain: outside it no initial
    state was ever seen.
    """
    low, high = np.array(problems.system.domain).T if problems.q0.ndim > 1 else problems.system.domain[0]
    window = problems.times[:, : problems.times.shape[1] // num_windows]
    parts, q0, p0 = [], problems.q0, problems.p0
    for _ in range(num_windows):
        prediction = predict(replace(problems, times=window, q0=q0, p0=p0))
        parts.append((prediction.q, prediction.p))
        q0, p0 = np.clip(prediction.q[:, -1], low, high), prediction.p[:, -1]
    q, p = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return q, p


def _judge(problems: Problems, q: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    system, times = problems.system, problems.times[0]
    lost_at = LOST * max(high - low for low, high in system.domain)
    with np.errstate(all="ignore"):
        errors = _components(q - problems.q, p - problems.p)
        distance = reduce(np.hypot, errors)
        lost = ~(distance <= lost_at)
        valid = np.where(lost.any(axis=1), times[lost.argmax(axis=1)], times[-1])
        rates = _components(*system.rates(problems.hamiltonians, problems.q, problems.p))
        # The part of an error along the orbit is a delay; the rest leaves the orbit.
        along = np.sum([error * rate for error, rate in zip(errors, rates, strict=True)], axis=0)
        lag = along / np.sum([rate**2 for rate in rates], axis=0)
        excess = problems.hamiltonians.energy(q, p) - problems.energy[:, None]
        drift = excess / problems.energy_scale[:, None]
        slope = np.abs((drift * (times - times.mean())).sum(axis=1) / ((times - times.mean()) ** 2).sum())
        largest = np.abs(excess).max(axis=1) / problems.energy_scale
    ends = slice(TIMES_PER_WINDOW - 1, None, TIMES_PER_WINDOW)
    return {
        "not_finite": count_broken(distance.max(axis=1)),
        "valid_time": {
            "median": float(np.median(valid)),
            "p05": float(np.quantile(valid, 0.05)),
            "fraction_to_the_end": float(np.mean(~lost.any(axis=1))),
        },
        "error": _medians(distance[:, ends]),
        "phase_error": _medians(np.abs(lag[:, ends])),
        "drift_slope": finite_median(slope),
        "energy_drift": finite_median(largest),
    }


def _components(q: np.ndarray, p: np.ndarray) -> list[np.ndarray]:
    """The components of states, (N, T) each: those of q, then those of p."""
    return [part[..., i] for part in (x.reshape(*x.shape[:2], -1) for x in (q, p)) for i in range(part.shape[-1])]


def _medians(values: np.ndarray) -> list[float | None]:
    return [finite_median(column) for column in values.T]


def draw_rollouts(entry: dict[str, Any]) -> Figure:
    """Median distance from the truth, and median delay, at the end of each window."""
    figure, axes = figures.subplots(1, 2, figsize=(9, 3.7))
    ends = np.linspace(entry["horizon"] / entry["windows"], entry["horizon"], entry["windows"])
    for name, values in entry["solvers"].items():
        figures.draw_line(axes[0], ends, values["error"], name)
        figures.draw_line(axes[1], ends, values["phase_error"], name)
    axes[0].set(yscale="log", xlabel="t", ylabel="median distance in (q, p)")
    axes[1].set(yscale="log", xlabel="t", ylabel="median delay, units of time")
    figures.legend_below(figure, axes)
    return figure


STUDY = Study("rollouts", measure, "rollouts.html.j2", (takes_any_initial_state, has_exact_hamiltonians), draw_rollouts)
