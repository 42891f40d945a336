"""The evaluation report: one self-contained HTML file, and its figures beside it as PNG and PDF."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np

from ..physics import CurvePotential
from .datasets import Split
from .measurement import Measurement

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).parent / "report.html.j2"
_STYLE: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "axes.grid": True, "grid.alpha": 0.25}


def write_report(
    out: Path, result: dict[str, Any], split: Split, measurements: dict[str, Measurement], exact: list[CurvePotential]
) -> Path:
    """Write report.html and its figures to `out`; returns the path of the report."""
    with plt.rc_context(_STYLE):
        figures = {"losses": _draw_losses(measurements, result["truth_floor"])}
        losses = measurements["model"].metrics["total_loss"]
        order = np.argsort(losses)  # a non-finite loss sorts last: it is the worst case
        for name, row in (("median_case", order[len(order) // 2]), ("worst_case", order[-1])):
            figures[name] = _draw_case(int(row), split, measurements["model"], exact[int(row)], float(losses[row]))
        images = {name: _save(figure, out / name) for name, figure in figures.items()}
    model, dataset = result["model"]["folder"], result["dataset"]
    command = f"neural-hamilton evaluate {model} --dataset {dataset['folder']} --split {dataset['split']} --out {out}"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.2e}"
    template = environment.from_string(_TEMPLATE.read_text())
    path = out / "report.html"
    path.write_text(template.render(result=result, images=images, command=command, verdict=_verdict(result)))
    return path


def _verdict(result: dict[str, Any]) -> str:
    """Where the model stands against the solvers, by median total loss."""
    model = result["metrics"]["total_loss"]["median"]
    if model is None:
        return "The model gave answers that are not finite."
    better = [
        name for name, b in result["baselines"].items() if b["total_loss"]["median"] is not None and model < b["total_loss"]["median"]
    ]
    worse = [name for name in result["baselines"] if name not in better]
    parts = [f"Median total loss {model:.2e}."]
    parts += [f"More accurate than {', '.join(better)}."] if better else []
    parts += [f"Less accurate than {', '.join(worse)}."] if worse else []
    return " ".join(parts)


def _draw_losses(measurements: dict[str, Measurement], floor: float) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, measurement in measurements.items():
        losses = np.sort(measurement.metrics["total_loss"])
        finite = np.maximum(losses[np.isfinite(losses)], 1e-32)
        axis.plot(finite, np.arange(1, finite.size + 1) / losses.size, label=name, lw=2.2 if name == "model" else 1.1)
    axis.axvline(floor, color="0.4", ls=":", label="label floor")
    axis.set(xscale="log", xlabel="total loss of a trajectory", ylabel="fraction of trajectories below", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8)
    return figure


def _draw_case(row: int, split: Split, measurement: Measurement, potential: CurvePotential, loss: float) -> Figure:
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.7), layout="constrained")
    positions = np.linspace(0, 1, 400)
    axes[0].plot(positions, potential.value(positions), label="V(q)")
    axes[0].axhline(split.energy[row], color="0.4", ls=":", label="energy")
    axes[0].set(xlabel="q", ylabel="V")
    for axis, truth, answer, name in ((axes[1], split.q, measurement.q, "q"), (axes[2], split.p, measurement.p, "p")):
        axis.plot(split.times[row], truth[row], color="0.6", lw=3, label="truth")
        axis.plot(split.times[row], answer[row], lw=1, label="model")
        axis.set(xlabel="t", ylabel=name)
    axes[3].plot(split.q[row], split.p[row], color="0.6", lw=3, label="truth")
    axes[3].plot(measurement.q[row], measurement.p[row], lw=1, label="model")
    axes[3].set(xlabel="q", ylabel="p")
    for axis in axes:
        axis.legend(frameon=False, fontsize=7)
    figure.suptitle(f"row {row}, total loss {loss:.2e}")
    return figure


def _save(figure: Figure, stem: Path) -> str:
    """Write PNG and PDF; the PNG as a data URI for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    stem.with_suffix(".png").write_bytes(buffer.getvalue())
    figure.savefig(stem.with_suffix(".pdf"))
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
