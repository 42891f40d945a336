"""What accuracy costs: networks and compiled solvers on the same problems and CPUs, one at a time and by the thousand.

Shapes: N problems, T query times.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ....architectures import Operator
from ....physics.systems import draw_rows, get_system
from ..answers import predict
from ..metrics import finite_or_none, measure
from ..problems import Problems
from ..solvers import ADAPTIVE_METHOD, EXACT, Baseline, reconstruct, run_solver

QUERY_TIMES = (10, 100, 1_000)
_STEPS = (0.02, 0.005, 0.001)
_TOLERANCES = (1e-4, 1e-7, 1e-10)
_METHODS = ("stormer-verlet", "yoshida4", "rk4", "gauss-legendre4")
_REPEATS = 5  # of which the median counts; of large batches, which time well, one
_LARGE = 1_000
HORIZON = get_system("well").horizon
# Of the force on a cubic spline in V: the piece, its parameter, a quadratic, and the multiply-adds of one stage.
_FLOPS_PER_FORCE = 20


def study_work(model: Operator, problems: Problems, sizes: list[int], batch_size: int) -> dict[str, Any]:
    """`solvers`, a line for each method and step or tolerance, on the sensors' cubic spline and on V itself; `model`, the same.

    Each line: median and mean total loss, forces evaluated and floating-point operations a trajectory, and seconds a
    trajectory in a batch of each of `sizes`, that of rebuilding V from the sensors included.
    """
    lines = [line for potential in ("cubic", EXACT) for line in _solver_lines(potential, problems, sizes)]
    answer = predict(model, problems, batch_size)
    losses = measure(problems, answer.q, answer.p)["total_loss"]
    network = {
        "median": finite_or_none(np.median(losses)),
        "mean": finite_or_none(losses.mean()),
        "flops": count_flops(model, problems.take(slice(1))),
        "seconds": {str(size): _time_each(lambda some: predict(model, some, batch_size), _batch(problems, size)) for size in sizes},
    }
    return {"model": network, "solvers": lines, "threads": torch.get_num_threads(), "flops_per_force": _FLOPS_PER_FORCE}


def study_length(model: Operator, problems: Problems, chains: bool, batch_size: int) -> dict[str, list[dict[str, Any]]]:
    """Seconds a trajectory as it grows: `query_times` in one window, and `windows` chained, where the network can be chained."""
    rk4 = Baseline("rk4 0.02", "rk4", "cubic", step=0.02)
    by_times = []
    for count in QUERY_TIMES:
        some = replace(problems, times=np.tile(np.linspace(0.0, HORIZON, count), (len(problems), 1)))
        by_times.append({"query_times": count, **_both(model, rk4, some, batch_size, 1)})
    by_windows = []
    for windows in (1, 2, 5, 10) if chains else ():
        longer = replace(problems, times=np.tile(np.linspace(0.0, windows * HORIZON, 100 * windows), (len(problems), 1)))
        by_windows.append({"horizon": windows * HORIZON, **_both(model, rk4, longer, batch_size, windows)})
    return {"query_times": by_times, "windows": by_windows}


def _both(model: Operator, baseline: Baseline, problems: Problems, batch_size: int, windows: int) -> dict[str, float]:
    """A window's start is the end of the one before: so a chain costs a network its windows one after the other."""
    window = replace(problems, times=problems.times[:, : problems.times.shape[1] // windows])
    return {
        "model": windows * _time_each(lambda some: predict(model, some, batch_size), window),
        baseline.name: _time_each(lambda some: _rebuild_and_solve(baseline, some), problems),
    }


def break_even(work: dict[str, Any], card: dict[str, Any], seconds_per_row: float) -> dict[str, Any]:
    """How many trajectories must be asked for until making the data and training has paid, against the cheapest solver on the
    sensors with no larger median loss. `queries` is None where the solver is the cheaper one a trajectory, or none is as accurate.
    """
    batch = max(work["model"]["seconds"], key=int)
    loss, cost = work["model"]["median"], work["model"]["seconds"][batch]
    known = [line for line in work["solvers"] if line["track"] == "sensors" and line["median"] is not None]
    able = [line for line in known if loss is not None and line["median"] <= loss]
    training = card.get("provenance", {}).get("seconds")
    rows = card.get("provenance", {}).get("rows_drawn")
    data = seconds_per_row * rows if rows is not None else None
    result: dict[str, Any] = {"batch": int(batch), "training_seconds": training, "data_seconds": data, "queries": None}
    if not able:
        return result | {"reason": "no solver on the sensors is as accurate by the median"}
    cheapest = min(able, key=lambda line: line["seconds"][batch])
    result |= {"solver": cheapest["name"], "solver_seconds": cheapest["seconds"][batch], "model_seconds": cost}
    saved = result["solver_seconds"] - cost
    if saved <= 0:
        return result | {"reason": "the solver is quicker at the same accuracy"}
    if training is None or data is None:
        return result | {"reason": "the model folder does not say what its training cost"}
    return result | {"queries": round((training + data) / saved)}


def measure_row_cost(preset: str, count: int = 100) -> float:
    """Seconds that a certified training row costs on one CPU, drawn here."""
    system = get_system("well")
    ensemble = system.get_ensemble(preset)()
    draw_rows(system, ensemble, 0, "train", np.arange(4))  # compiles
    started = time.perf_counter()
    draw_rows(system, ensemble, 0, "train", np.arange(count))
    return (time.perf_counter() - started) / count


def count_flops(model: Operator, problems: Problems) -> int | None:
    """Floating-point operations of one answer, in matrix products, convolutions and attention, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        predict(model, problems, 1)
    return int(counter.get_total_flops()) or None


def _solver_lines(potential: str, problems: Problems, sizes: list[int]) -> list[dict[str, Any]]:
    """A line for each method and step or tolerance, all on one reconstruction of V, timed once for each size of batch."""
    batches = [_batch(problems, size) for size in sizes]
    rebuilding = [_time_each(lambda some: reconstruct(potential, some), batch) for batch in batches]
    own, curves = reconstruct(potential, problems).curves, [reconstruct(potential, batch).curves for batch in batches]
    baselines = [Baseline(f"{method} {step:g}", method, potential, step=step) for method in _METHODS for step in _STEPS]
    baselines += [Baseline(f"dop853 {tolerance:g}", ADAPTIVE_METHOD, potential, tolerance=tolerance) for tolerance in _TOLERANCES]
    lines = []
    for baseline in baselines:
        solution = run_solver(baseline, own, problems)
        losses = measure(problems, solution.q, solution.p)["total_loss"]
        forces = float(solution.num_evaluations.mean())
        seconds = {
            str(size): rebuilt + _time_each(partial(run_solver, baseline, known), batch)
            for size, rebuilt, known, batch in zip(sizes, rebuilding, curves, batches, strict=True)
        }
        lines.append(
            {
                "name": baseline.name,
                "method": baseline.method,
                "track": baseline.track,
                "median": finite_or_none(np.median(losses)),
                "mean": finite_or_none(losses.mean()),
                "forces": forces,
                "flops": forces * _FLOPS_PER_FORCE,
                "seconds": seconds,
            }
        )
    return lines


def _batch(problems: Problems, size: int) -> Problems:
    """So many problems, in order, over again where there are fewer."""
    return problems.take(np.arange(size) % len(problems))


def _rebuild_and_solve(baseline: Baseline, problems: Problems) -> None:
    run_solver(baseline, reconstruct(baseline.potential, problems).curves, problems)


def _time_each(work: Callable[[Problems], Any], problems: Problems) -> float:
    """Seconds a trajectory, all problems in one go; the first of several runs does not count."""
    repeats = _REPEATS if len(problems) < _LARGE else 1
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work(problems)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:] or seconds) / len(problems)
