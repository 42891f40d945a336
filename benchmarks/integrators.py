"""Work and precision of every integrator on random curves, and what compiling and batching are worth.

Errors are measured against orbits by quadrature, which share nothing with any time-stepper; the solvers know
the potential exactly. Work is the number of forces evaluated, and the time of one thread.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from neural_hamilton.physics import FIXED_STEP_METHODS, Curves, InputError, solve

from .timing import compare, time_in_turns

_NUM_ORBITS = 64
_TIMES = np.linspace(0.0, 2.0, 101)[1:]
_STEPS = (0.02, 0.01, 0.005, 0.0025, 0.001)
_TARGET = 1e-6  # median over orbits of the largest error of q or p
_DIVERGED = 1e9  # stands for errors that are not finite
_TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
_REPEATS = 5


def measure() -> dict[str, Any]:
    """A work-precision table, and side-by-side times of the best of ours against SciPy at equal accuracy."""
    curves, truths = _problems()
    start = np.zeros(_NUM_ORBITS)

    def batch(method: str, step: float, curves: Curves = curves) -> np.ndarray:
        solution = solve(curves, start, start, _TIMES, method=method, step=step, num_threads=1)
        return np.stack([solution.q, solution.p], axis=1)

    def one_by_one(**settings: Any) -> np.ndarray:
        return np.stack([solve(curve, 0.0, 0.0, _TIMES, **settings)[:2] for curve in curves])

    def by_scipy(tolerance: float) -> np.ndarray:
        return np.stack([solve(_Plain(curve), 0.0, 0.0, _TIMES, tolerance=tolerance)[:2] for curve in curves])

    def median_error(states: np.ndarray) -> float:
        return float(np.median(np.nan_to_num(np.abs(states - truths).max(axis=(1, 2)), nan=np.inf)))

    table = {}
    for name, method in FIXED_STEP_METHODS.items():
        for step in _STEPS:
            forces = solve(curves, start, start, _TIMES, method=name, step=step).num_evaluations
            table[f"{name} {step:g}"] = {
                "order": method.order,
                "forces_per_orbit": float(forces.mean()),
                "median_error": min(median_error(batch(name, step)), _DIVERGED),
            }
    coarsest = {}
    for name in FIXED_STEP_METHODS:
        enough = [step for step in _STEPS if table[f"{name} {step:g}"]["median_error"] <= _TARGET]
        if enough:
            coarsest[name] = max(enough)
    tolerance = next(t for t in _TOLERANCES if median_error(by_scipy(t)) <= _TARGET)

    contestants: dict[str, Callable[[], Any]] = {f"{name}, batch": partial(batch, name, step) for name, step in coarsest.items()}
    scipy = f"SciPy DOP853 to {tolerance:g}"
    contestants[scipy] = partial(by_scipy, tolerance)
    contestants["rk4, one by one"] = partial(one_by_one, method="rk4", step=coarsest["rk4"])
    contestants["dop853-fixed at 0.005, batch"] = partial(batch, "dop853-fixed", 0.005)
    seconds = time_in_turns(contestants, _REPEATS)
    forces = table["dop853-fixed 0.005"]["forces_per_orbit"] * _NUM_ORBITS
    return {
        "what": f"{_NUM_ORBITS} orbits of random curves at {_TIMES.size} times, one thread; each method at its coarsest step of "
        f"{', '.join(f'{s:g}' for s in _STEPS)} with a median error of at most {_TARGET:g}",
        "comparisons": [
            *(compare(seconds, f"{name}, batch", scipy) for name in coarsest),
            compare(seconds, "rk4, batch", "rk4, one by one"),
        ],
        "microseconds_per_orbit": {name: 1e6 * float(np.median(values)) / _NUM_ORBITS for name, values in seconds.items()},
        "nanoseconds_per_force": 1e9 * float(np.median(seconds["dop853-fixed at 0.005, batch"])) / forces,
        "steps": coarsest,
        "work_precision": table,
        "note": "SciPy calls V' from Python at every stage. No method ends its steps at the knots of the curves here, where V''' jumps, so "
        "methods of high order gain less from small steps than on smooth potentials.",
    }


class _Plain:
    """A curve that hides what it is, so that SciPy solves it."""

    def __init__(self, curve: Curves) -> None:
        self.value, self.gradient = curve.value, curve.gradient


def _problems() -> tuple[Curves, np.ndarray]:
    """Curves with four inner control points, and states (N, 2, T) from rest at the wall; separatrices are drawn again."""
    rng = np.random.default_rng(0)
    curves: list[Curves] = []
    truths = []
    while len(curves) < _NUM_ORBITS:
        inner = (np.arange(4) + rng.uniform(0.2, 0.8, 4)) / 4
        curve = Curves.from_control_points([0.0, *inner, 1.0], [2.0, *rng.uniform(-1.0, 1.5, 4), 2.0])
        try:
            truths.append(np.stack(solve(curve, 0.0, 0.0, _TIMES, method="quadrature")[:2]))
        except InputError:
            continue
        curves.append(curve)
    return Curves.join(curves), np.stack(truths)
