"""Trajectories a second: our two integrators as they certify, and ours against SciPy's DOP853 at equal accuracy.

Accuracy is measured, not promised: every answer is held against an independent reference, and each
solver runs at the loosest of its settings whose worst error over all the potentials meets the target.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from neural_hamilton.physics import Ensemble, Problem, Trajectory, draw_problem, solve_certified
from neural_hamilton.physics.reference import solve_control_polygon

from .timing import compare, time_in_turns

_NUM_POTENTIALS = 50
_CERTIFICATE = 1e-9  # of a dataset row
_TARGET = 1e-6  # SciPy, stepping across the knots of the potential, stays above 1e-7 at any setting tried here
_OUR_TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
_SCIPY_SETTINGS = ((1e-8, math.inf), (1e-10, math.inf), (1e-10, 0.01), (1e-11, math.inf), (1e-12, math.inf))  # rtol = atol, max_step
_REPEATS = 3

Answer = tuple[np.ndarray, np.ndarray]
Solver = Callable[[Problem], Answer]


def measure() -> dict[str, Any]:
    """Compare dop853 with rk4 and with SciPy's DOP853 on the first potentials of the preset `paper`."""
    problems = [draw_problem(Ensemble("paper", integrator="dop853"), 0, "test", index)[0] for index in range(_NUM_POTENTIALS)]
    truths = [solve_control_polygon(p.control_q, p.control_v, p.q0, p.p0, p.trajectory.times) for p in problems]

    def worst_error(solve: Solver) -> float:
        return max(float(np.max(np.abs(np.stack(solve(p)) - np.stack(truth)))) for p, truth in zip(problems, truths, strict=True))

    def loosest(settings: dict[str, Solver]) -> tuple[str, Solver]:
        for name, solve in settings.items():
            if worst_error(solve) <= _TARGET:
                return name, solve
        raise AssertionError(f"no setting of {', '.join(settings)} reaches {_TARGET:g}")

    equal = [
        loosest({f"dop853 to {tolerance:g}": _certified("dop853", tolerance) for tolerance in _OUR_TOLERANCES}),
        loosest({f"rk4 to {tolerance:g}": _certified("rk4", tolerance) for tolerance in _OUR_TOLERANCES}),
        loosest({f"SciPy DOP853, rtol {rtol:g}, max_step {step:g}": _scipy(rtol, step) for rtol, step in _SCIPY_SETTINGS}),
    ]
    certified = [(f"{method} certified to {_CERTIFICATE:g}", _certified(method, _CERTIFICATE)) for method in ("dop853", "rk4")]
    solvers = dict(certified + equal)
    seconds = time_in_turns({name: lambda solve=solve: [solve(p) for p in problems] for name, solve in solvers.items()}, _REPEATS)
    ours = equal[0][0]
    return {
        "what": f"{_NUM_POTENTIALS} trajectories of the preset paper at 100 times; last two lines: worst error at most {_TARGET:g}",
        "comparisons": [
            compare(seconds, certified[0][0], certified[1][0]),
            compare(seconds, ours, equal[1][0]),
            compare(seconds, ours, equal[2][0]),
        ],
        "trajectories_per_second": {name: _NUM_POTENTIALS / float(np.median(values)) for name, values in seconds.items()},
        "worst_error": {name: worst_error(solve) for name, solve in solvers.items()},
        "note": "SciPy calls V' from Python once a stage and knows nothing of the knots, where V''' jumps; our stepper is compiled "
        "and ends its steps there. Our times include the halvings that earn the certificate; SciPy gives none.",
    }


def _certified(method: str, tolerance: float) -> Solver:
    def solve(problem: Problem) -> Answer:
        times = problem.trajectory.times
        trajectory = solve_certified(problem.potential, problem.q0, problem.p0, times, method=method, tolerance=tolerance)
        assert isinstance(trajectory, Trajectory)  # these rows were certified when they were drawn
        return trajectory.q, trajectory.p

    return solve


def _scipy(tolerance: float, max_step: float) -> Solver:
    def solve(problem: Problem) -> Answer:
        gradient, times = problem.potential.gradient, problem.trajectory.times

        def slope(_: float, state: np.ndarray) -> list[float]:
            return [state[1], -float(gradient(state[0]))]

        span, start = (0.0, float(times[-1])), [problem.q0, problem.p0]
        solution = solve_ivp(slope, span, start, "DOP853", t_eval=times, rtol=tolerance, atol=tolerance, max_step=max_step)
        return solution.y[0], solution.y[1]

    return solve
