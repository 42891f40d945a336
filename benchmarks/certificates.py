"""Rows a second at equal accuracy: our two integrators, and SciPy's DOP853 on the same potentials.

Ours deliver a certificate (the last step doubling), SciPy a tolerance; so that accuracy is equal and not
only promised, every answer is held against an independent reference, and SciPy is given the loosest
relative tolerance of a list whose worst error is no worse than that of our dop853.
"""

from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from neural_hamilton.physics import Ensemble, Problem, Trajectory, draw_problem, solve_certified
from neural_hamilton.physics.reference import solve_control_polygon

from .timing import compare, time_in_turns

_NUM_POTENTIALS = 50
_TOLERANCE = 1e-9  # of a dataset row
_SCIPY_TOLERANCES = (1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
_REPEATS = 5

Answer = tuple[np.ndarray, np.ndarray]


def measure() -> dict[str, Any]:
    """Compare dop853 with rk4 and with SciPy's DOP853 on the first potentials of the preset `paper`."""
    problems = [draw_problem(Ensemble("paper", integrator="dop853"), 0, "test", index)[0] for index in range(_NUM_POTENTIALS)]
    truths = [solve_control_polygon(p.control_q, p.control_v, p.q0, p.p0, p.trajectory.times) for p in problems]
    errors = {f"certified {method}": _worst_error([_solve_certified(p, method) for p in problems], truths) for method in ("dop853", "rk4")}
    tolerance = _SCIPY_TOLERANCES[-1]
    for tolerance in _SCIPY_TOLERANCES:
        errors["SciPy DOP853"] = _worst_error([_solve_with_scipy(p, tolerance) for p in problems], truths)
        if errors["SciPy DOP853"] <= errors["certified dop853"]:
            break
    seconds = time_in_turns(
        {
            "certified dop853": lambda: [_solve_certified(p, "dop853") for p in problems],
            "certified rk4": lambda: [_solve_certified(p, "rk4") for p in problems],
            "SciPy DOP853": lambda: [_solve_with_scipy(p, tolerance) for p in problems],
        },
        _REPEATS,
    )
    return {
        "what": f"{_NUM_POTENTIALS} trajectories of the preset paper with 100 query times, certified to {_TOLERANCE:g}",
        "comparisons": [compare(seconds, "certified dop853", other) for other in ("certified rk4", "SciPy DOP853")],
        "rows_per_second": {name: _NUM_POTENTIALS / float(np.median(values)) for name, values in seconds.items()},
        "worst_error": errors,
        "scipy_rtol": tolerance,
        "note": "SciPy calls V' from Python, once a stage; our stepper is compiled by Numba and cut at the knots of the curve. "
        "Both our figures include the halvings that earn the certificate; SciPy gives none.",
    }


def _solve_certified(problem: Problem, method: str) -> Answer:
    trajectory = solve_certified(problem.potential, problem.q0, problem.p0, problem.trajectory.times, method=method, tolerance=_TOLERANCE)
    assert isinstance(trajectory, Trajectory)  # these rows were certified when they were drawn
    return trajectory.q, trajectory.p


def _solve_with_scipy(problem: Problem, tolerance: float) -> Answer:
    gradient = problem.potential.gradient

    def slope(_: float, state: np.ndarray) -> list[float]:
        return [state[1], -float(gradient(state[0]))]

    times = problem.trajectory.times
    solution = solve_ivp(slope, (0.0, float(times[-1])), [problem.q0, problem.p0], "DOP853", t_eval=times, rtol=tolerance, atol=tolerance)
    return solution.y[0], solution.y[1]


def _worst_error(answers: list[Answer], truths: list[Answer]) -> float:
    return max(float(np.max(np.abs(np.stack(answer) - np.stack(truth)))) for answer, truth in zip(answers, truths, strict=True))
