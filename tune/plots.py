"""The picture of a dataset-size study."""

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .fits import confidence_band

_STATISTIC = "median"


def plot_scaling(result: dict[str, Any]) -> bytes:
    """PNG: the median total loss of every finished cell against its size, log-log, with the fitted lines and bands."""
    figure = Figure(figsize=(7.0, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    finished = [row for row in result["cells"] if row["state"] == "finished"]
    for index, (name, fits) in enumerate(result["fits"].items()):
        rows = [row for row in finished if row["name"] == name]
        _draw(axes, f"C{index}", name, rows, fits[_STATISTIC], result["confidence"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({row["size"] for row in finished})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training trajectories")
    axes.set_ylabel(f"median total loss, {result['dataset']['split']} split (dimensionless)")
    axes.set_title(f"{result['budget']} at every size; bands: {result['confidence']:.0%} confidence", fontsize="medium")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(axes: Any, colour: str, name: str, rows: list[dict[str, Any]], fit: dict[str, Any], confidence: float) -> None:
    points = [(row["size"], row[_STATISTIC]) for row in rows if row[_STATISTIC] > 0]
    if not points:
        return
    sizes, losses = zip(*points, strict=True)
    axes.plot(sizes, losses, "o", color=colour, alpha=0.8, label=f"{name}: {_describe(fit)}")
    if fit["b"] is None:
        return
    at = np.geomspace(min(sizes), max(sizes), 100)
    axes.plot(at, fit["a"] * at ** -fit["b"], color=colour)
    if fit["b_interval"] is not None:
        axes.fill_between(at, *confidence_band(list(sizes), fit, confidence, at), color=colour, alpha=0.15, linewidth=0)


def _describe(fit: dict[str, Any]) -> str:
    if fit["b"] is None:
        return "no fit"
    if fit["b_interval"] is None:
        return f"b = {fit['b']:.2f}"
    low, high = fit["b_interval"]
    return f"b = {fit['b']:.2f} [{low:.2f}, {high:.2f}]"
