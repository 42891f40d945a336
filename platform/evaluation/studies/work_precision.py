"""Work and precision: what accuracy costs, for the network and for solvers on the same problems and CPUs."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from ....architectures import Operator
from ....physics.systems import Baseline, Ensemble, Problems, System, draw_rows
from .. import figures
from ..metrics import finite_or_none, total_losses
from ..predictions import predict
from ..study import Study, Subject, can_be_drawn, has_exact_hamiltonians

_REPEATS = 5  # of which the median counts; of large batches, which time well, one
_LARGE = 1_000
_ENOUGH = 1.0  # seconds after which a second run is the last


def measure(subject: Subject) -> dict[str, Any]:
    """The cost of accuracy, and when training has paid for itself."""
    sizes = subject.settings.work_batches or list(subject.system.work_batches)
    work = measure_work(subject.model, subject.baselines, subject.problems, sizes, subject.settings.batch_size)
    row_cost = measure_row_cost(subject.system, subject.ensemble)
    return work | {"break_even": break_even(work, subject.card.get("provenance", {}), row_cost)}


def measure_work(model: Operator, baselines: list[Baseline], problems: Problems, sizes: list[int], batch_size: int) -> dict[str, Any]:
    """`solvers`, a line for each baseline with the role work-precision; and `model`, the same for the network.

    Each line: median and mean total loss, forces evaluated and floating-point operations per trajectory, and seconds per
    trajectory in a batch of each of `sizes`, with the time of rebuilding the Hamiltonian from its sensors.
    """
    points = [b for b in baselines if "work-precision" in b.roles and b.why_not(problems) is None]
    points.sort(key=lambda baseline: baseline.reconstruction.name if baseline.reconstruction else "")
    lines = []
    for _, group in groupby(points, key=lambda baseline: baseline.reconstruction):
        lines += _lines(list(group), problems, sizes)
    prediction = predict(model, problems, batch_size)
    losses = total_losses(problems, prediction.q, prediction.p)
    network = {
        "median": finite_or_none(np.median(losses)),
        "mean": finite_or_none(losses.mean()),
        "flops": count_flops(model, problems.take(slice(1))),
        "seconds": {str(size): _time_each(lambda some: predict(model, some, batch_size), _batch(problems, size)) for size in sizes},
    }
    return {"model": network, "solvers": lines, "threads": torch.get_num_threads()}


def _lines(baselines: list[Baseline], problems: Problems, sizes: list[int]) -> list[dict[str, Any]]:
    """A line for each of several baselines on one reconstruction, which is timed once for each size of batch."""
    batches = [_batch(problems, size) for size in sizes]
    rebuilding = [_time_each(partial(_rebuild, baselines[0]), batch) for batch in batches]
    lines = []
    for baseline in baselines:
        states = baseline.states(problems)
        losses = total_losses(problems, states.q, states.p)
        forces = float(states.num_evaluations.mean())
        seconds = {
            str(size): rebuilt + _time_each(baseline.states, batch)  # the first of several runs, which rebuilds, does not count
            for size, rebuilt, batch in zip(sizes, rebuilding, batches, strict=True)
        }
        lines.append(
            {
                "name": baseline.name,
                "method": baseline.method,
                "track": baseline.track,
                "median": finite_or_none(np.median(losses)),
                "mean": finite_or_none(losses.mean()),
                "forces": forces,
                "flops": forces * baseline.flops_per_evaluation if baseline.flops_per_evaluation else None,
                "seconds": seconds,
            }
        )
    return lines


def _rebuild(baseline: Baseline, problems: Problems) -> Any:
    """The Hamiltonians that the baseline integrates, made afresh."""
    return baseline.reconstruction.rebuild(problems) if baseline.reconstruction else problems.hamiltonians


def break_even(work: dict[str, Any], provenance: dict[str, Any], seconds_per_row: float) -> dict[str, Any]:
    """The number of trajectories after which making the data and training has paid.

    The comparison is with the cheapest solver on the sensors whose median loss is no larger. `queries` is None, with a
    `reason`, where the solver is cheaper per trajectory, or none is as accurate.
    """
    batch = max(work["model"]["seconds"], key=int)
    loss, cost = work["model"]["median"], work["model"]["seconds"][batch]
    known = [line for line in work["solvers"] if line["track"] == "sensors" and line["median"] is not None]
    able = [line for line in known if loss is not None and line["median"] <= loss]
    training, rows = provenance.get("seconds"), provenance.get("rows_drawn")
    data = seconds_per_row * rows if rows is not None else None
    result: dict[str, Any] = {"batch": int(batch), "training_seconds": training, "data_seconds": data, "queries": None}
    if not able:
        return result | {"reason": "no solver on the sensors is as accurate by the median"}
    cheapest = min(able, key=lambda line: line["seconds"][batch])
    result |= {"solver": cheapest["name"], "solver_seconds": cheapest["seconds"][batch], "model_seconds": cost}
    saved = result["solver_seconds"] - cost
    if saved <= 0:
        return result | {"reason": "the solver is faster at the same accuracy"}
    if training is None or data is None:
        return result | {"reason": "the model folder does not record what its training cost"}
    return result | {"queries": round((training + data) / saved)}


def measure_row_cost(system: System, ensemble: Ensemble, count: int = 100) -> float:
    """Seconds that a certified training row costs on one CPU, drawn here."""
    draw_rows(system, ensemble, 0, "train", np.arange(4))  # compiles
    started = time.perf_counter()
    draw_rows(system, ensemble, 0, "train", np.arange(count))
    return (time.perf_counter() - started) / count


def count_flops(model: Operator, problems: Problems) -> int | None:
    """Floating-point operations of one prediction, in matrix products, convolutions and attention, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        predict(model, problems, 1)
    return int(counter.get_total_flops()) or None


def _batch(problems: Problems, size: int) -> Problems:
    """`size` problems, in order, over again where there are fewer."""
    return problems.take(np.arange(size) % len(problems))


def _time_each(work: Callable[[Problems], Any], problems: Problems) -> float:
    """Seconds per trajectory, all problems at once; the first of several runs does not count."""
    repeats = _REPEATS if len(problems) < _LARGE else 1
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work(problems)
        seconds.append(time.perf_counter() - started)
        if len(seconds) > 1 and sum(seconds) > _ENOUGH:
            break
    return statistics.median(seconds[1:] or seconds) / len(problems)


def draw_work(work: dict[str, Any]) -> Figure:
    """Error against forces evaluated, operations where those of solvers are known, and seconds in the smallest and the largest batch."""
    few, many = (f(work["model"]["seconds"], key=int) for f in (min, max))
    panels = [
        ("forces evaluated per trajectory", lambda line: line.get("forces")),
        ("floating-point operations per trajectory", lambda line: line["flops"]),
        (f"seconds per trajectory, batch of {int(few):,}", lambda line: line["seconds"][few]),
        (f"seconds per trajectory, batch of {int(many):,}", lambda line: line["seconds"][many]),
    ]
    panels = [(label, cost) for label, cost in panels if any(cost(line) for line in work["solvers"])]
    methods = list(dict.fromkeys(line["method"] for line in work["solvers"]))
    shape, size = ((2, 2), (9.5, 7.4)) if len(panels) == 4 else ((1, len(panels)), (4.0 * len(panels), 4.2))
    figure, axes = figures.subplots(*shape, figsize=size, sharey=True, squeeze=False)
    for axis, (label, cost) in zip(axes.flat, panels, strict=True):
        for number, method in enumerate(methods):
            for track, style in (("sensors", "-"), ("oracle", ":")):
                lines = [line for line in work["solvers"] if (line["method"], line["track"]) == (method, track) and cost(line)]
                lines.sort(key=cost)
                look = {"color": f"C{number}", "ls": style}
                figures.draw_line(axis, [cost(line) for line in lines], [line["median"] for line in lines], f"{method}, {track}", **look)
        if work["model"]["median"] is not None and cost(work["model"]):
            axis.plot([cost(work["model"])], [work["model"]["median"]], "*", ms=13, color=figures.MODEL_COLOUR, label="model", zorder=4)
        axis.set(xscale="log", yscale="log", xlabel=label)
        figures.thin_labels(axis)
    for axis in axes[:, 0]:
        axis.set_ylabel("median total loss")
    figures.legend_below(figure, axes.flat)
    return figure


STUDY = Study("work_precision", measure, "work_precision.html.j2", (has_exact_hamiltonians, can_be_drawn), figure=draw_work)
