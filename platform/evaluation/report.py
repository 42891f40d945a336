"""The report: one self-contained HTML file for a reader who trusts nothing, and its figures beside it as PNG and PDF."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ...architectures import get_architecture
from ...physics.files import write_file
from ..config import EvaluationConfig
from . import figures
from .answers import Answers
from .problems import Problems

_TEMPLATES = Path(__file__).parent
_DPI = 110


def write_report(
    out: Path, result: dict[str, Any], problems: Problems, answers: dict[str, Answers], metrics: dict[str, dict[str, np.ndarray]]
) -> Path:
    """Write report.html and its figures to `out`; returns the path of the report."""
    losses = {name: values["total_loss"] for name, values in metrics.items()}
    shown = solvers_to_show(result)
    order = np.argsort(losses["model"])  # a loss that is not finite sorts last: it is the worst case
    images = _save_all(
        out,
        {
            "losses": lambda: figures.draw_losses(losses, shown, result["truth_floor"]),
            "groups": lambda: figures.draw_groups(result["by_stratum"], result["by_separatrix"], shown),
            "median_case": lambda: figures.draw_case(problems, answers["model"], int(order[len(order) // 2])),
            "worst_case": lambda: figures.draw_case(problems, answers["model"], int(order[-1])),
            "calibration": lambda: figures.draw_calibration(result["calibration"]),
            "sensors": lambda: figures.draw_sensors(result["sensors"], ["model"]) if result["sensors"] else None,
            "work": lambda: figures.draw_work(result["work"]) if result["work"] else None,
            "horizons": lambda: figures.draw_horizons(result["horizons"]) if "solvers" in (result["horizons"] or {}) else None,
        },
    )
    page = render(
        "report.html.j2",
        result=result,
        name=display_name(result["model"]["name"]),
        images=images,
        command=command_of(result, out),
        verdict=verdict(result),
        shown=shown,
    )
    path = out / "report.html"
    write_file(path, page.encode())
    return path


def write_comparison(out: Path, result: dict[str, Any]) -> Path:
    """Write comparison.html and its figure to `out`; returns the path of the page."""
    images = _save_all(out, {"sensors": lambda: figures.draw_sensors(result["sensors"], list(result["models"]))})
    path = out / "comparison.html"
    write_file(path, render("comparison.html.j2", result=result, images=images).encode())
    return path


def render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(_TEMPLATES)
    )
    environment.filters["number"] = _number
    return environment.get_template(template).render(**values)


def display_name(architecture: str) -> str:
    """As it is written in prose: MambONet, not mambonet."""
    return get_architecture(architecture).__name__


def solvers_to_show(result: dict[str, Any]) -> list[str]:
    """The solvers drawn beside the model: one of each kind, so that a figure can be read."""
    wanted = ("dop853-cubic", "dop853-hermite", "dop853-prior-fit", "rk4-as-published")
    coarse = [name for name in result["baselines"] if name.startswith("rk4-sensors")][:1]
    return [*coarse, *(name for name in wanted if name in result["baselines"])]


def verdict(result: dict[str, Any]) -> list[str]:
    """Where the model stands against the solvers, by median and by mean, sentence by sentence; nothing claimed below the floor."""
    figures_of_model, floor = result["metrics"]["total_loss"], result["truth_floor"]
    if figures_of_model["median"] is None:
        return ["The model gave answers that are not finite."]
    sentences = [f"Total loss: median {figures_of_model['median']:.2e}, mean {figures_of_model['mean']:.2e} (label floor {floor:.1e})."]
    if result["inputs"]:
        told = result["inputs"]["total_loss"]
        sentences.append(
            f"What it reads says q and p to {told['median']:.1e} and {told['mean']:.1e} already, "
            "by a quadrature of the same sensors: what it has learnt is the difference."
        )
    for statistic in ("median", "mean"):
        value = max(figures_of_model[statistic], floor)
        known = {n: b["total_loss"][statistic] for n, b in result["baselines"].items() if b["total_loss"][statistic] is not None}
        for track, label in (("sensors", "solvers that see the same sensors"), ("oracle", "solvers that know V exactly")):
            group = {name: max(loss, floor) for name, loss in known.items() if result["baselines"][name]["track"] == track}
            if not group:
                continue
            beaten, best = [name for name, loss in group.items() if value < loss], min(group, key=group.__getitem__)
            sentences.append(
                f"By the {statistic}, the model is closer to the truth than {len(beaten)} of {len(group)} {label}{_names(beaten)}; "
                f"the closest of them, {best}, has {known[best]:.1e}."
            )
    return sentences


def _names(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def command_of(result: dict[str, Any], out: Path) -> str:
    """The command that writes this report again, with the settings that differ from the defaults."""
    model, dataset = result["model"]["folder"], result["dataset"]
    usual = EvaluationConfig().model_dump(mode="json")
    changed = {key: value for key, value in result["settings"].items() if value != usual[key]}
    settings = "".join(f" --set 'evaluation.{key}={json.dumps(value)}'" for key, value in changed.items())
    return f"neural-hamilton evaluate {model} --dataset {dataset['folder']} --split {dataset['split']} --out {out}{settings}"


def _save_all(out: Path, drawings: dict[str, Any]) -> dict[str, str]:
    """Draw and write each figure as PNG and PDF; the PNG as a data URI for the page. A drawing may be None."""
    images = {}
    with figures.plt.rc_context(figures.STYLE):
        for name, draw in drawings.items():
            figure = draw()
            if figure is not None:
                images[name] = _save(figure, out / name)
    return images


def _save(figure: figures.Figure, stem: Path) -> str:
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI)
    figure.savefig(pdf, format="pdf")
    figures.plt.close(figure)
    write_file(stem.with_suffix(".png"), png.getvalue())
    write_file(stem.with_suffix(".pdf"), pdf.getvalue())
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2e}" if value and (abs(value) < 1e-2 or abs(value) >= 1e4) else f"{value:.3g}"
