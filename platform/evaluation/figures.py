"""The figures of a report. Each function draws one from the entries of evaluation.json or from the trajectories behind them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...physics.systems import Predictions, Problems
from ..plane_figure import draw_plane
from .metrics import total_losses

# The colour of the model is nobody else's.
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")

STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=_COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "legend.fontsize": 7.5,
    "pdf.fonttype": 42,  # text stays text
}
MODEL_COLOUR, TRUTH_COLOUR = "#c0392b", "0.6"
_SMALLEST = 1e-32  # where a loss of zero is drawn on a logarithmic axis
_LARGEST = 1e12  # of a loss that is drawn; a larger one belongs to a particle that has escaped
_FINE = 400  # points of a curve


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **layout: Any) -> tuple[Figure, Any]:
    """As pyplot's, but pyplot, its state and its choice of a backend belong to the user."""
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **layout)


def draw_losses(losses: dict[str, np.ndarray], shown: list[str], floor: float) -> Figure:
    """Distribution of the total loss: histogram of the model's, cumulative fractions of it and of baselines."""
    figure, (left, right) = subplots(1, 2, figsize=(10, 3.9), width_ratios=(1, 1.5))
    finite = _positive(losses["model"])
    if finite.size:
        low, high = np.log10(finite.min()), np.log10(finite.max())
        left.hist(finite, bins=np.logspace(low - 0.01, high + 0.01, 40), color=MODEL_COLOUR, alpha=0.8)
        for value, style, name in ((np.median(finite), "-", "median"), (finite.mean(), "--", "mean")):
            left.axvline(value, color="k", ls=style, lw=1, label=f"{name} {value:.1e}")
        left.legend(loc="upper right")
    left.set(xscale="log", xlabel="total loss of a trajectory (model)", ylabel="trajectories")
    for name in ["model", *shown]:
        ordered = np.sort(_positive(losses[name]))
        look = {"color": MODEL_COLOUR, "lw": 2.4, "zorder": 3} if name == "model" else {"lw": 1.1}
        right.plot(ordered, np.arange(1, ordered.size + 1) / losses[name].size, label=name, **look)
    right.axvline(floor, color="0.4", ls=":", label="label floor")
    right.set(xscale="log", xlabel="total loss of a trajectory", ylabel="fraction of trajectories below", ylim=(0, 1))
    legend_below(figure, [right])
    return figure


def legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for several axes, below them, where it hides no data."""
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.7)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def draw_case(problems: Problems, prediction: Predictions, row: int) -> Figure:
    """One trajectory: its potential, its components in time, with one degree of freedom the phase portrait, and the errors in time."""
    one = problems.take(np.array([row]))
    q, p = prediction.q[row], prediction.p[row]
    figure = _draw_line_case(one, q, p) if one.system.degrees_of_freedom == 1 else _draw_space_case(one, q, p)
    loss = total_losses(one, q[None], p[None])[0]
    figure.suptitle(f"row {row}, total loss {loss:.2e}", fontsize=9)
    return figure


def _draw_line_case(one: Problems, q: np.ndarray, p: np.ndarray) -> Figure:
    """One row of panels, for positions and momenta (T,)."""
    times, (true_q, true_p) = one.times[0], (one.q[0], one.p[0])
    figure, axes = subplots(1, 5, figsize=(13, 2.6))
    _draw_potential_line(axes[0], one)
    for axis, truth, predicted, name in ((axes[1], true_q, q, "q"), (axes[2], true_p, p, "p")):
        _compare(axis, times, truth, times, predicted)
        axis.set(xlabel="t", ylabel=name)
    _compare(axes[3], true_q, true_p, q, p)
    axes[3].set(xlabel="q", ylabel="p")
    _draw_errors(axes[4], one, q, p)
    for axis in axes:
        axis.legend(loc="upper right")
    return figure


def _draw_space_case(one: Problems, q: np.ndarray, p: np.ndarray) -> Figure:
    """Above the plane of motion and the positions (T, d) in time, below the errors and the momenta."""
    times, dimensions = one.times[0], one.system.degrees_of_freedom
    figure, axes = subplots(2, dimensions + 1, figsize=(1.4 + 3.3 * (dimensions + 1), 5.4))
    _draw_plane(axes[0, 0], one, q)
    _draw_errors(axes[1, 0], one, q, p)
    for row, (truth, predicted, name) in zip(axes, ((one.q[0], q, "q"), (one.p[0], p, "p")), strict=True):
        for k, axis in enumerate(row[1:]):
            _compare(axis, times, truth[:, k], times, predicted[:, k])
            axis.set(xlabel="t", ylabel=f"{name}{k + 1}")
            low, high, (bottom, top) = truth[:, k].min(), truth[:, k].max(), axis.get_ylim()
            if high > low:  # a prediction that has run away would flatten the truth to a line
                axis.set_ylim(max(bottom, 2.0 * low - high), min(top, 2.0 * high - low))
    legend_below(figure, axes.ravel())
    return figure


def _draw_errors(axis: Axes, one: Problems, q: np.ndarray, p: np.ndarray) -> None:
    """The largest errors of a component of q and of p, and that of the energy, in time."""
    with np.errstate(all="ignore"):
        energy = one.hamiltonians.energy(q[None], p[None])[0]
        errors = {
            "error of q": _largest(q - one.q[0]),
            "error of p": _largest(p - one.p[0]),
            "|H − H₀|": np.abs(energy - one.energy[0]),
        }
    for (name, values), look in zip(errors.items(), ({}, {}, {"color": "k"}), strict=True):
        axis.semilogy(one.times[0], np.maximum(values, 1e-16), lw=1, label=name, **look)
    axis.set(xlabel="t")


def _draw_potential_line(axis: Axes, problem: Problems) -> None:
    """V along a line, with its sensors and the energy."""
    name, readings = next(iter(problem.fields.items()))
    [domain], [sensors] = problem.system.domain, problem.sensors
    positions = np.linspace(*domain, _FINE)
    axis.plot(positions, problem.hamiltonians.sense((_FINE,))[name][0], color="k", label=name)
    axis.plot(np.linspace(*domain, sensors), readings[0], ".", ms=2.5, color="0.5", label="sensors")
    axis.axhline(problem.energy[0], color="0.4", ls=":", label="energy")
    axis.set(xlabel="q", ylabel="V")


def _draw_plane(axis: Axes, problem: Problems, q: np.ndarray) -> None:
    """The orbit over the contours of V, with the line V = E that it cannot cross and the sensors; nothing in more dimensions."""
    name, domain = next(iter(problem.fields)), problem.system.domain
    if problem.system.fields[name] > 1 or problem.system.degrees_of_freedom > 2:
        axis.set_axis_off()
        return
    line = {"color": "k", "linestyle": ":", "linewidth": 1.2}
    draw_plane(axis, problem.hamiltonians, domain, float(problem.energy[0]), line, {})
    places = np.meshgrid(*(np.linspace(*bounds, count) for bounds, count in zip(domain, problem.sensors, strict=True)))
    axis.plot(*(part.ravel() for part in places), ".", ms=1.5, color="0.5", label="sensors")
    _compare(axis, *problem.q[0].T, *q.T)
    axis.plot(*problem.q[0, 0], "o", ms=4, color="k", label="start")
    axis.set(xlabel="q1", ylabel="q2", xlim=domain[0], ylim=domain[1], aspect="equal")
    axis.grid(False)


def _compare(axis: Axes, x: np.ndarray, truth: np.ndarray, predicted_x: np.ndarray, predicted: np.ndarray) -> None:
    """Truth and prediction, a line each."""
    axis.plot(x, truth, color=TRUTH_COLOUR, lw=3, label="truth")
    axis.plot(predicted_x, predicted, color=MODEL_COLOUR, lw=1, label="model")


def _largest(errors: np.ndarray) -> np.ndarray:
    """The largest absolute component at each time, (T,)."""
    return np.abs(errors).reshape(len(errors), -1).max(axis=1)


def draw_groups(groups: dict[str, Any], shown: list[str]) -> Figure | None:
    """Median total loss in each group of problems, a panel for each way to group them."""
    if not groups:
        return None
    widths = [1 + len(group["rows"]) for group in groups.values()]
    figure, axes = subplots(1, len(groups), figsize=(2 + 1.05 * sum(widths), 3.9), squeeze=False, sharey=True, width_ratios=widths)
    for axis, group in zip(axes[0], groups.values(), strict=True):
        entries = group["rows"]
        for name in ["model", *shown]:
            draw_line(axis, range(len(entries)), [entry[name]["median"] for entry in entries.values()], name)
        axis.set(yscale="log", xlabel=group["title"])
        labels = [f"{label.replace(' to ', chr(10) + 'to ')}\n({entry['rows']})" for label, entry in entries.items()]
        axis.set_xticks(range(len(entries)), labels, fontsize=7)
    axes[0][0].set_ylabel("median total loss")
    legend_below(figure, axes[0])
    return figure


def draw_calibration(calibration: dict[str, Any]) -> Figure:
    """Mean error of the predictions that a score accepts, against the fraction accepted."""
    figure, axis = subplots(figsize=(5.4, 3.4))
    for name, entry in calibration["scores"].items():
        rank = entry["rank_correlation"]
        label = f"{name} (rank correlation {'–' if rank is None else f'{rank:.2f}'})"
        draw_line(axis, [x["coverage"] for x in entry["curve"]], [x["mean_error"] for x in entry["curve"]], label)
    curve = next(iter(calibration["scores"].values()))["curve"]
    draw_line(axis, [x["coverage"] for x in curve], [x["ideal_mean_error"] for x in curve], "if the errors were known", color="0.4", ls=":")
    axis.set(yscale="log", xlabel="fraction of predictions accepted", ylabel="mean largest error of those accepted")
    axis.legend(loc="upper left")
    return figure


def draw_line(axis: Axes, x: Any, y: list[float | None], name: str, **look: Any) -> None:
    """A line with markers, with gaps where a value is missing or that of a particle that has escaped; the model stands out."""
    if name == "model":
        look = {"color": MODEL_COLOUR, "lw": 2.4, "zorder": 3} | look
    values = [np.nan if value is None or value > _LARGEST else max(value, _SMALLEST) for value in y]
    settings: dict[str, Any] = {"lw": 1.1} | look
    axis.plot(list(x), values, marker="o", ms=3, label=name, **settings)


def thin_labels(axis: Axes) -> None:
    """On a logarithmic x-axis over less than two decades, where minor ticks have labels, only those at 2 and 5: others run into them."""
    low, high = axis.get_xlim()
    if high / low < 100.0:
        axis.xaxis.set_minor_formatter(_label_few)


def _label_few(value: float, position: float) -> str:
    exponent = math.floor(math.log10(value))
    digit = round(value / 10.0**exponent)
    return rf"${digit}\times10^{{{exponent}}}$" if digit in (2, 5) else ""


def _positive(losses: np.ndarray) -> np.ndarray:
    return np.maximum(losses[losses <= _LARGEST], _SMALLEST)
