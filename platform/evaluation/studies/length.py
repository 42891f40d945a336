"""Cost against length: what a longer trajectory costs the network, and solvers that are as accurate.

Shapes: N problems, T query times.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ....physics.systems import Baseline, Problems
from .. import figures
from ..metrics import finite_or_none, total_losses
from ..study import Study, Subject, has_exact_hamiltonians, takes_any_initial_state

_QUERY_TIMES = (10, 100, 1_000, 10_000)
_WINDOWS = (1, 2, 5, 10, 20, 50)
_TIMES_PER_WINDOW = 100
_STATES_AT_ONCE = 50_000  # of all problems together: fewer problems where trajectories are longer
_REPEATS, _ENOUGH = 4, 0.5  # runs, and the seconds after which there is no further one


def measure(subject: Subject) -> dict[str, Any]:
    """Seconds per trajectory as it grows: with more `query_times` within the horizon, and over more `windows` of a rollout.

    `solvers` are the points of the work-precision diagram that rebuild V from the sensors: of each method the fastest whose median loss on
    these problems is no larger than the network's, or its most accurate one, which then is not `as_accurate`. They solve a
    rollout's time in one piece. Rollouts are only measured where the model accepts any initial state.
    """
    problems, horizon = subject.problems, subject.trained_for.horizon
    prediction = subject.predict(problems)
    loss = float(np.median(total_losses(problems, prediction.q, prediction.p)))
    solvers = choose_solvers(subject.with_role("work-precision", problems), problems, loss)

    def cost(times: np.ndarray, windows: int) -> dict[str, Any]:
        some = problems.take(np.arange(max(1, min(len(problems), _STATES_AT_ONCE // times.size))))
        longer = replace(some, times=np.tile(times, (len(some), 1)))
        window = replace(longer, times=longer.times[:, : times.size // windows])
        seconds = {"model": windows * _time_each(lambda: subject.predict(window), len(some))}
        for name, (solver, _) in solvers.items():
            # With the time of rebuilding V from its sensors.
            seconds[name] = _time_each(lambda solver=solver: solver.integrate(_rebuild(solver, longer), longer), len(some))
        return {"rows": len(some), "seconds": seconds}

    by_times = [{"query_times": count, **cost(np.linspace(0.0, horizon, count), 1)} for count in _QUERY_TIMES]
    windows = _WINDOWS if takes_any_initial_state(subject) is None else ()
    by_windows = [
        {"horizon": count * horizon, **cost(np.linspace(0.0, count * horizon, _TIMES_PER_WINDOW * count), count)} for count in windows
    ]
    about = {name: {"median": finite_or_none(own), "as_accurate": bool(own <= loss)} for name, (_, own) in solvers.items()}
    return {
        "model_median": finite_or_none(loss),
        "solvers": about,
        "query_times": by_times,
        "windows": by_windows,
        "threads": torch.get_num_threads(),
    }


def choose_solvers(candidates: list[Baseline], problems: Problems, loss: float) -> dict[str, tuple[Baseline, float]]:
    """Of each method on the sensors one solver by its name, with its median loss on the problems: see `measure`."""
    chosen: dict[str, tuple[bool, float, Baseline, float]] = {}
    for solver in candidates:
        if solver.reconstruction is None:
            continue
        states = solver.states(problems)
        own = float(np.median(total_losses(problems, states.q, states.p)))
        own = own if np.isfinite(own) else np.inf
        # An accurate one before others, then the one that evaluates fewest forces; of inaccurate ones, the best.
        accurate = own <= loss
        rank = (not accurate, float(np.mean(states.num_evaluations)) if accurate else own, solver, own)
        if solver.method not in chosen or rank[:2] < chosen[solver.method][:2]:
            chosen[solver.method] = rank
    return {solver.name: (solver, own) for _, _, solver, own in chosen.values()}


def _rebuild(solver: Baseline, problems: Problems) -> Any:
    assert solver.reconstruction is not None
    return solver.reconstruction.rebuild(problems)


def _time_each(work: Callable[[], Any], rows: int) -> float:
    """Seconds per trajectory; the first of several runs, which may compile, does not count."""
    seconds = list[float]()
    while len(seconds) < 2 or (len(seconds) < _REPEATS and sum(seconds) < _ENOUGH):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) / rows


def draw_length(entry: dict[str, Any]) -> Figure:
    """Seconds per trajectory against the number of query times and, where rollouts were measured, against their end."""
    panels = [("query_times", "query times within the horizon"), ("windows", "end of a rollout, t")]
    panels = [(key, label) for key, label in panels if entry[key]]
    figure, axes = figures.subplots(1, len(panels), figsize=(4.75 * len(panels), 3.9), squeeze=False, sharey=True)
    for axis, (key, label) in zip(axes.flat, panels, strict=True):
        lines = entry[key]
        x = [line["query_times" if key == "query_times" else "horizon"] for line in lines]
        for name in ("model", *entry["solvers"]):
            inexact = name != "model" and not entry["solvers"][name]["as_accurate"]
            look = {"color": figures.MODEL_COLOUR, "lw": 2.4, "zorder": 3} if name == "model" else {"ls": ":" if inexact else "-"}
            text = f"{name}, less accurate" if inexact else name
            figures.draw_line(axis, x, [line["seconds"][name] for line in lines], text, **look)
        axis.set(xscale="log", yscale="log", xlabel=label)
    axes[0, 0].set_ylabel("seconds per trajectory")
    figures.legend_below(figure, axes.flat)
    return figure


STUDY = Study("length", measure, "length.html.j2", (has_exact_hamiltonians,), figure=draw_length)
