"""The figures of a report. Each function draws one from the entries of evaluation.json or from the trajectories behind them."""

from typing import Any

import matplotlib
import numpy as np

from ...physics.diagnostics import total_loss
from .answers import Answers
from .problems import Problems

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
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
_LARGEST = 1e12  # of a loss that is drawn; between the walls none is above a few thousand


def draw_losses(losses: dict[str, np.ndarray], shown: list[str], floor: float) -> Figure:
    """Distribution of the total loss: histogram of the model's, cumulative shares of it and of solvers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=(1, 1.5))
    finite = _positive(losses["model"])
    if finite.size:
        low, high = np.log10(finite.min()), np.log10(finite.max())
        left.hist(finite, bins=np.logspace(low - 0.01, high + 0.01, 40), color=MODEL_COLOUR, alpha=0.8)
        for value, style, name in ((np.median(finite), "-", "median"), (finite.mean(), "--", "mean")):
            left.axvline(value, color="k", ls=style, lw=1, label=f"{name} {value:.1e}")
        left.legend()
    left.set(xscale="log", xlabel="total loss of a trajectory (model)", ylabel="trajectories")
    for name in ["model", *shown]:
        ordered = np.sort(_positive(losses[name]))
        look = {"color": MODEL_COLOUR, "lw": 2.4, "zorder": 3} if name == "model" else {"lw": 1.1}
        right.plot(ordered, np.arange(1, ordered.size + 1) / losses[name].size, label=name, **look)
    right.axvline(floor, color="0.4", ls=":", label="label floor")
    right.set(xscale="log", xlabel="total loss of a trajectory", ylabel="share of trajectories below", ylim=(0, 1))
    right.legend(loc="upper left")
    return figure


def draw_case(problems: Problems, answer: Answers, row: int) -> Figure:
    """One trajectory: its potential and energy, q(t), p(t), the phase portrait, and the errors in time."""
    exact, times, q, p = problems.exact[row], problems.times[row], answer.q[row], answer.p[row]
    figure, axes = plt.subplots(1, 5, figsize=(13, 2.6), layout="constrained")
    positions = np.linspace(0, 1, 400)
    axes[0].plot(positions, exact.value(positions), color="k", label="V(q)")
    axes[0].plot(np.linspace(0, 1, problems.sensors.shape[1]), problems.sensors[row], ".", ms=2.5, color="0.5", label="sensors")
    axes[0].axhline(problems.energy[row], color="0.4", ls=":", label="energy")
    axes[0].set(xlabel="q", ylabel="V")
    for axis, truth, given, name in ((axes[1], problems.q[row], q, "q"), (axes[2], problems.p[row], p, "p")):
        axis.plot(times, truth, color=TRUTH_COLOUR, lw=3, label="truth")
        axis.plot(times, given, color=MODEL_COLOUR, lw=1, label="model")
        axis.set(xlabel="t", ylabel=name)
    axes[3].plot(problems.q[row], problems.p[row], color=TRUTH_COLOUR, lw=3, label="truth")
    axes[3].plot(q, p, color=MODEL_COLOUR, lw=1, label="model")
    axes[3].set(xlabel="q", ylabel="p")
    with np.errstate(all="ignore"):
        energy = 0.5 * p**2 + exact.value(q)
    axes[4].semilogy(times, np.maximum(np.abs(q - problems.q[row]), 1e-16), lw=1, label="abs error of q")
    axes[4].semilogy(times, np.maximum(np.abs(p - problems.p[row]), 1e-16), lw=1, label="abs error of p")
    axes[4].semilogy(times, np.maximum(np.abs(energy - problems.energy[row]), 1e-16), lw=1, color="k", label="abs(H − E)")
    axes[4].set(xlabel="t")
    for axis in axes:
        axis.legend()
    loss = total_loss(q, p, problems.q[row], problems.p[row])
    figure.suptitle(f"row {row}, total loss {loss:.2e}", fontsize=9)
    return figure


def draw_groups(by_stratum: dict[str, Any], by_separatrix: dict[str, Any], shown: list[str]) -> Figure | None:
    """Median total loss by energy stratum and by distance from the separatrix."""
    groups = [
        (title, entries)
        for title, entries in (("energy stratum", by_stratum), ("distance from a barrier's top / depth", by_separatrix))
        if entries
    ]
    if not groups:
        return None
    figure, axes = plt.subplots(1, len(groups), figsize=(5 * len(groups), 3.2), layout="constrained", squeeze=False)
    for axis, (title, entries) in zip(axes[0], groups, strict=True):
        for name in ["model", *shown]:
            _line(axis, range(len(entries)), [entry[name]["median"] for entry in entries.values()], name)
        axis.set(yscale="log", xlabel=title, ylabel="median total loss")
        axis.set_xticks(range(len(entries)), [f"{name}\n({entry['rows']})" for name, entry in entries.items()], fontsize=7)
    axes[0][0].legend()
    return figure


def draw_sensors(study: list[dict[str, Any]], networks: list[str]) -> Figure:
    """Mean total loss against the number of sensors, a panel for each level of noise."""
    levels = sorted({entry["noise"] for entry in study})
    figure, axes = plt.subplots(1, len(levels), figsize=(3.6 * len(levels), 3.4), layout="constrained", sharey=True, squeeze=False)
    for axis, level in zip(axes[0], levels, strict=True):
        entries = [entry for entry in study if entry["noise"] == level]
        solvers = [name for name in entries[0]["total_loss"] if name not in networks]
        for name in solvers:
            _line(axis, [e["sensors"] for e in entries], [e["total_loss"][name]["mean"] for e in entries], name)
        seen = [(e["sensors"], e["total_loss"][name]["mean"], name) for e in entries for name in networks if name in e["total_loss"]]
        for count, loss, name in seen:
            if loss is not None:
                axis.plot([count], [loss], "*", ms=11, color=MODEL_COLOUR, label=name, zorder=4)
        axis.set(xscale="log", yscale="log", xlabel="sensors", title=f"noise {level:g}" if level else "no noise")
        axis.set_xticks([e["sensors"] for e in entries], [str(e["sensors"]) for e in entries])
        axis.minorticks_off()
    axes[0][0].set_ylabel("mean total loss")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    axes[0][-1].legend(handles.values(), handles.keys())
    return figure


def draw_work(work: dict[str, Any]) -> Figure:
    """Error against forces evaluated, operations, and seconds one at a time and by the ten thousand."""
    few, many = (f(work["model"]["seconds"], key=int) for f in (min, max))
    panels = [
        ("forces evaluated a trajectory", lambda line: line.get("forces"), False),
        ("floating-point operations a trajectory", lambda line: line["flops"], True),
        (f"seconds a trajectory, {int(few):,} at once", lambda line: line["seconds"][few], True),
        (f"seconds a trajectory, {int(many):,} at once", lambda line: line["seconds"][many], True),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.4), layout="constrained", sharey=True)
    for axis, (label, cost, with_model) in zip(axes.flat, panels, strict=True):
        for method in dict.fromkeys(line["method"] for line in work["solvers"]):
            for track, style in (("sensors", "-"), ("oracle", ":")):
                lines = [line for line in work["solvers"] if line["method"] == method and line["track"] == track]
                lines.sort(key=cost)
                colour = f"C{list(dict.fromkeys(line['method'] for line in work['solvers'])).index(method)}"
                _line(
                    axis, [cost(line) for line in lines], [line["median"] for line in lines], f"{method}, {track}", color=colour, ls=style
                )
        if with_model and work["model"]["median"] is not None and cost(work["model"]):
            axis.plot([cost(work["model"])], [work["model"]["median"]], "*", ms=13, color=MODEL_COLOUR, label="model", zorder=4)
        axis.set(xscale="log", yscale="log", xlabel=label)
    axes[0][0].set_ylabel("median total loss")
    axes[1][0].set_ylabel("median total loss")
    axes[0][1].legend(ncols=2)
    return figure


def draw_calibration(calibration: dict[str, Any]) -> Figure:
    """Mean error of the answers a score would accept, against the share accepted."""
    figure, axis = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    for name, entry in calibration["scores"].items():
        rank = entry["rank_correlation"]
        label = f"{name} (rank correlation {'–' if rank is None else f'{rank:.2f}'})"
        _line(axis, [x["coverage"] for x in entry["curve"]], [x["mean_error"] for x in entry["curve"]], label)
    curve = next(iter(calibration["scores"].values()))["curve"]
    _line(axis, [x["coverage"] for x in curve], [x["ideal_mean_error"] for x in curve], "if the errors were known", color="0.4", ls=":")
    axis.set(yscale="log", xlabel="share of answers accepted", ylabel="mean largest error of those accepted")
    axis.legend()
    return figure


def draw_horizons(horizons: dict[str, Any]) -> Figure:
    """Median distance from the truth and delay as windows are chained."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
    ends = np.linspace(horizons["horizon"] / horizons["windows"], horizons["horizon"], horizons["windows"])
    for name, entry in horizons["solvers"].items():
        _line(axes[0], ends, entry["error"], name)
        _line(axes[1], ends, entry["phase_error"], name)
    axes[0].set(yscale="log", xlabel="t", ylabel="median distance in (q, p)")
    axes[1].set(yscale="log", xlabel="t", ylabel="median delay, units of time")
    axes[0].legend()
    return figure


def _line(axis: Axes, x: Any, y: list[float | None], name: str, **look: Any) -> None:
    """A line with markers, gaps where there is no number or one of a particle that has left the walls for good; the model stands out."""
    if name == "model":
        look = {"color": MODEL_COLOUR, "lw": 2.4, "zorder": 3} | look
    values = [np.nan if value is None or value > _LARGEST else max(value, _SMALLEST) for value in y]
    settings: dict[str, Any] = {"lw": 1.1} | look
    axis.plot(list(x), values, marker="o", ms=3, label=name, **settings)


def _positive(losses: np.ndarray) -> np.ndarray:
    return np.maximum(losses[losses <= _LARGEST], _SMALLEST)
