"""The figure of a dataset-size study."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ..fits import ScalingLaw, confidence_band, mean_intervals
from .laws import by_size

FORMATS = ("png", "svg")
STATISTIC = "median"
_MARKERS = "osD^vPX<>*"
_LINES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_NEXT_TO = 1.06  # factor by which a held-out prediction stands to the right of its size


def plot_scaling(result: dict[str, Any], laws: Mapping[str, ScalingLaw | None], kind: str = "png") -> bytes:
    """The figure of `draw_scaling` as a file of this kind."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "neural-hamilton"}):
        draw_scaling(result, laws).savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def draw_scaling(result: dict[str, Any], laws: Mapping[str, ScalingLaw | None]) -> Figure:
    """The median total loss against the rows, log-log.

    Of a contestant with a law: for each size the geometric mean over its repetitions, draws or seeds, with its confidence interval, the
    law, a prediction band for such a mean of new repetitions, and the largest size as predicted from the others. So about 95 of 100
    points lie within a band of 95%. Of one without: every repetition, and the power law with its confidence band. Contestants differ in
    colour, marker and line.
    """
    figure = Figure(figsize=(7.5, 5.4 + 0.22 * len(laws)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    finished = [row for row in result["cells"] if row["state"] == "finished"]
    entries = []
    for index, (name, law) in enumerate(laws.items()):
        losses = by_size([row for row in finished if row["name"] == name], STATISTIC)
        style: dict[str, Any] = {"color": f"C{index}", "marker": _MARKERS[index % len(_MARKERS)]}
        line = _LINES[index % len(_LINES)]
        fit = result["fits"][name][STATISTIC]
        if not losses:
            continue
        if law is None:
            label = _draw_power_law(axes, losses, fit, result["confidence"], style, line)
        else:
            label = _draw_law(axes, losses, fit, law, style, line)
        entries.append(Line2D([], [], label=f"{name}: {label}", linestyle=line, **style))
    sizes = sorted({row["size"] for row in finished})
    _label_axes(axes, sizes, result["dataset"]["split"])
    held = any(result["fits"][name][STATISTIC]["held_out"] for name, law in laws.items() if law)
    if held:
        axes.axvline(sizes[-1], color="0.6", linestyle=":", linewidth=1, zorder=0)
        entries.append(Line2D([], [], color="0.4", marker="o", markerfacecolor="white", linestyle="", label=_HELD_OUT))
    axes.set_title(_caption(result, laws), fontsize="small")
    heading = _equation(laws, result["confidence"])
    figure.legend(handles=entries, loc="outside lower center", fontsize="small", title=heading, title_fontsize="small")
    return figure


_HELD_OUT = "largest size, held out: predicted from the smaller ones, with its interval"


def _caption(result: dict[str, Any], laws: Mapping[str, ScalingLaw | None]) -> str:
    confidence = f"{result['confidence']:.0%}"
    retuned = ", with settings of its own" if result["retuning"] else ""
    lines = [f"protocol {result['protocol']}: {result['budget']} at every size{retuned}"]
    each = result["repetitions"]
    if any(laws.values()):
        lines.append(f"points: geometric means over {each}, with {confidence} intervals; bands: {confidence} prediction of such means")
    else:
        lines.append(f"points: {'means of draws' if each == 'draws' else 'runs'}; bands: {confidence} confidence of the power law")
    return "\n".join(lines)


def _equation(laws: Mapping[str, ScalingLaw | None], confidence: float) -> str:
    law = r"$E + A\,N^{-\alpha}$" if any(laws.values()) else r"$a\,N^{-b}$"
    return f"loss = {law} for $N$ rows, with {confidence:.0%} intervals"


def _label_axes(axes: Any, sizes: Sequence[int], split: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training trajectories")
    axes.set_ylabel(f"{STATISTIC} total loss, {split} split (dimensionless)")
    axes.grid(True, which="both", alpha=0.25)


def _draw_law(axes: Any, losses: dict[int, list[float]], fit: dict[str, Any], law: ScalingLaw, style: dict[str, Any], line: Any) -> str:
    """Draws, and returns the legend's text."""
    sizes = np.array(list(losses))
    means, below, above = mean_intervals(law, list(losses.values()))
    bars = None if below is None or above is None else np.array([means - below, above - means])
    axes.errorbar(sizes, means, yerr=bars, linestyle="", capsize=2.5, markersize=5, **style)
    at = np.geomspace(sizes[0], sizes[-1], 100)
    band = law.predict(at, min(law.repetitions))
    axes.plot(at, band.loss, color=style["color"], linestyle=line)
    if band.lower is not None and band.upper is not None:
        axes.fill_between(at, band.lower, band.upper, color=style["color"], alpha=0.15, linewidth=0)
    held = fit["held_out"]
    if held is not None:
        low, high = held["interval"] or (held["predicted"], held["predicted"])
        bar = [[held["predicted"] - low], [high - held["predicted"]]]
        place = held["size"] * _NEXT_TO
        axes.errorbar([place], [held["predicted"]], yerr=bar, linestyle="", capsize=2.5, markersize=6, markerfacecolor="white", **style)
    alpha = rf"$\alpha$ = {law.alpha:.2f}{_brackets(law.alpha_interval, '.2f')}"
    floor = f"$E$ = {law.floor:.2g}{_brackets(law.floor_interval, '.2g')}"
    doubts = [
        words
        for words, there in (
            (r"$\alpha$ not identified", not law.alpha_identified),
            ("$E$ not identified", not law.floor_identified),
            ("does not hold", law.holds is False),
        )
        if there
    ]
    return "; ".join([f"{alpha}, {floor}, $A$ = {law.amplitude:.2g}", *doubts])


def _draw_power_law(
    axes: Any, losses: dict[int, list[float]], fit: dict[str, Any], confidence: float, style: dict[str, Any], line: Any
) -> str:
    """Draws, and returns the legend's text."""
    points = [(size, loss) for size, values in losses.items() for loss in values]
    sizes, values = zip(*points, strict=True)
    axes.plot(sizes, values, linestyle="", alpha=0.8, markersize=5, **style)
    if fit["b"] is None:
        return "no fit"
    at = np.geomspace(min(sizes), max(sizes), 100)
    axes.plot(at, fit["a"] * at ** -fit["b"], color=style["color"], linestyle=line)
    if fit["b_interval"] is not None:
        axes.fill_between(at, *confidence_band(sizes, fit, confidence, at), color=style["color"], alpha=0.15, linewidth=0)
    return f"$b$ = {fit['b']:.2f}{_brackets(fit['b_interval'], '.2f')}"


def _brackets(interval: Sequence[float | None] | None, form: str) -> str:
    if interval is None:
        return ""
    return " [" + ", ".join("∞" if end is None else f"{end:{form}}" for end in interval) + "]"
