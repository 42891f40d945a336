"""Poincaré sections: does a long rollout visit the places that the exact motion visits, where nothing can follow it point by point?

Shapes: N problems, W windows, T times of all windows together.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ....physics.diagnostics import log_stretchings, parts_exponentially
from ....physics.sections import Box, Crossings, crossings, occupancy_divergence
from ....physics.systems import Group, Problems
from .. import figures
from ..groups import measure_groups
from ..metrics import finite_median, finite_or_none
from ..study import Study, Subject, has_exact_hamiltonians, takes_any_initial_state
from .rollouts import roll_out

EXACT, MOVED = "exact", "moved"
_SHIFT = 1e-6  # of every component of the initial state
_TIMES_PER_WINDOW = 40
_PER_STRATUM = 3  # orbits; the first of each stratum is drawn
_DECIMALS = 5  # of the points that are kept to be drawn
_SMALLEST = 1e-9  # side of the box that occupancies are compared in
_MARGIN = 0.15  # of a panel around the exact section

States = tuple[np.ndarray, np.ndarray]


def has_two_degrees_of_freedom(subject: Subject) -> str | None:
    """Whether an energy surface is cut in a plane."""
    count = subject.system.degrees_of_freedom
    return None if count == 2 else f"a Poincaré section is a plane only with two degrees of freedom, and this system has {count}"


def measure(subject: Subject) -> dict[str, Any]:
    """The model, baselines with the role `sections` and the exact motion over `section_windows` horizons, on few problems.

    For each solver, as medians over orbits: `crossings` of the plane; the `divergence` of their places from those of the exact orbit
    (`occupancy_divergence`); and `energy_drift`. The solver `moved` is exact too, from a state that differs by `shift`: its divergence
    is the floor, set by the number of crossings and by chaos. The same by energy and by kind of motion (`parts_exponentially`).
    `orbits` holds the points of one orbit of each stratum.
    """
    num_windows, horizon = subject.settings.section_windows, subject.trained_for.horizon
    times = np.arange(1, num_windows * _TIMES_PER_WINDOW + 1) * (horizon / _TIMES_PER_WINDOW)
    chosen = _choose(subject.problems)
    problems = replace(chosen, times=np.tile(times, (len(chosen), 1)))
    states = {EXACT: _solve(problems, 0.0), MOVED: _solve(problems, _SHIFT), "model": roll_out(subject.predict, problems, num_windows)}
    states |= {baseline.name: baseline.states(problems)[:2] for baseline in subject.with_role("sections", problems)}
    planes = _planes(problems, states[EXACT])
    points = {solver: _cross(problems, own, planes) for solver, own in states.items()}
    values = {solver: _judge(problems, own, points[solver], points[EXACT]) for solver, own in states.items()}
    chaotic = parts_exponentially(log_stretchings(_window_jacobians(problems, states[EXACT], num_windows)))
    stratum, motion = _stratum(problems), Group("motion", "motion", {"regular": ~chaotic, "chaotic": chaotic})

    def summarise_rows(rows: np.ndarray) -> dict[str, Any]:
        return {solver: {name: finite_median(x[rows]) for name, x in own.items()} for solver, own in values.items()}

    def describe(row: int, label: str) -> dict[str, Any]:
        return {
            "stratum": label,
            "motion": "chaotic" if chaotic[row] else "regular",
            "plane": float(planes[row]),
            "divergence": {solver: finite_or_none(own["divergence"][row]) for solver, own in values.items()},
            "points": {solver: np.round(own.of(row), _DECIMALS).tolist() for solver, own in points.items() if solver != MOVED},
        }

    return {
        "windows": num_windows,
        "horizon": num_windows * horizon,
        "rows": len(problems),
        "shift": _SHIFT,
        "solvers": summarise_rows(np.arange(len(problems))),
        "groups": measure_groups(problems, summarise_rows, [stratum, motion]),
        "orbits": [describe(int(part.argmax()), label) for label, part in stratum.rows.items() if part.any()],
    }


def _stratum(problems: Problems) -> Group:
    """The system's strata of energy; all problems together where it has none."""
    named = {group.name: group for group in problems.system.groups(problems)}
    return named.get("stratum", Group("stratum", "energy", {"any": np.ones(len(problems), dtype=bool)}))


def _choose(problems: Problems) -> Problems:
    """The first few problems of each stratum."""
    return problems.take(np.concatenate([np.flatnonzero(part)[:_PER_STRATUM] for part in _stratum(problems).rows.values()]))


def _solve(problems: Problems, shift: float) -> States:
    """The exact motion, from states moved by `shift`."""
    return problems.system.solve(problems.hamiltonians, problems.q0 + shift, problems.p0 + shift, problems.times)


def _planes(problems: Problems, exact: States) -> np.ndarray:
    """The first coordinate on the plane of each orbit, (N,)."""
    everywhere = problems.system.section_plane
    return exact[0][..., 0].mean(axis=1) if everywhere is None else np.full(len(problems), everywhere)


def _cross(problems: Problems, states: States, planes: np.ndarray) -> Crossings:
    """With the rates that the exact Hamiltonian has at these states: between their times they are interpolated."""
    with np.errstate(all="ignore"):  # a solver may be anywhere by now
        rates = problems.system.rates(problems.hamiltonians, *states)
        return crossings(problems.times, *states, *rates, 0, planes)


def _judge(problems: Problems, states: States, points: Crossings, exact: Crossings) -> dict[str, np.ndarray]:
    """`crossings`, `divergence` and `energy_drift`, (N,) each."""
    pairs = [(points.of(row), exact.of(row)) for row in range(len(problems))]
    return {
        "crossings": np.array([len(own) for own, _ in pairs], dtype=np.float64),
        "divergence": np.array([occupancy_divergence(own, true, _box(true)) for own, true in pairs]),
        "energy_drift": problems.system.energy_drift(problems.hamiltonians, problems.q0, problems.p0, *states),
    }


def _box(points: np.ndarray) -> Box:
    """The smallest that holds points (n, 2)."""
    if not len(points):
        return (0.0, 1.0), (0.0, 1.0)
    low = points.min(axis=0)
    first, second = zip(low.tolist(), np.maximum(points.max(axis=0), low + _SMALLEST).tolist(), strict=True)
    return first, second


def _window_jacobians(problems: Problems, exact: States, num_windows: int) -> np.ndarray:
    """d(q, p) / d(q0, p0) over each window of the exact motion, (N, W, 4, 4)."""
    ends = slice(_TIMES_PER_WINDOW - 1, -1, _TIMES_PER_WINDOW)
    q0, p0 = (
        np.concatenate([start[:, None], x[:, ends]], axis=1).reshape(-1, 2)
        for start, x in zip((problems.q0, problems.p0), exact, strict=True)
    )
    hamiltonians = problems.hamiltonians.take(np.repeat(np.arange(len(problems)), num_windows))
    horizon = problems.times[:, [_TIMES_PER_WINDOW - 1]]
    jacobians = problems.system.tangents(hamiltonians, q0, p0, np.repeat(horizon, num_windows, axis=0))
    return jacobians.reshape(len(problems), num_windows, 4, 4)


def draw_sections(entry: dict[str, Any]) -> Figure:
    """A row of panels for each orbit, a column for each solver."""
    orbits = entry["orbits"]
    solvers = list(orbits[0]["points"])
    figure, axes = figures.subplots(len(orbits), len(solvers), figsize=(2.4 * len(solvers), 2.2 * len(orbits)), squeeze=False)
    for row, orbit in zip(axes, orbits, strict=True):
        box = _box(np.array(orbit["points"][EXACT]).reshape(-1, 2))
        limits = [(low - _MARGIN * (high - low), high + _MARGIN * (high - low)) for low, high in box]
        for axis, solver in zip(row, solvers, strict=True):
            position, momentum = np.array(orbit["points"][solver]).reshape(-1, 2).T
            colour = {EXACT: "k", "model": figures.MODEL_COLOUR}.get(solver, "#1f77b4")
            axis.plot(position, momentum, ".", ms=2, color=colour)
            axis.set(xlim=limits[0], ylim=limits[1])
            compared, words = (MOVED, ", moved: D") if solver == EXACT else (solver, ", D")
            divergence = orbit["divergence"][compared]
            axis.set_title(f"{len(position)} crossings{'' if divergence is None else f'{words} = {divergence:.2f}'}", fontsize=8)
        row[0].set_ylabel(f"{orbit['motion']}, stratum {orbit['stratum']}\nq1 = {orbit['plane']:.3g}\n\np2", fontsize=8)
    for axis, solver in zip(axes[0], solvers, strict=True):
        axis.set_title(f"{solver}\n{axis.get_title()}", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("q2")
    return figure


_REQUIREMENTS = (has_two_degrees_of_freedom, takes_any_initial_state, has_exact_hamiltonians)
STUDY = Study("sections", measure, "sections.html.j2", _REQUIREMENTS, draw_sections)
