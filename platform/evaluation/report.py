"""The report: one self-contained HTML file, with its figures beside it as PNG and PDF."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup

from ...architectures import get_architecture
from ...physics.files import write_file
from ...physics.systems import Baseline, Predictions, Problems, with_role
from ..config import Config, EvaluationConfig
from ..config.conditions import keys_without_effect
from ..storage import Location
from . import figures
from .quadrature import QUADRATURE
from .studies import get_study, study_names

_TEMPLATES = Path(__file__).parent
_DPI = 110
_FIGURE = """<figure><img alt="{0}" src="{1}"><figcaption>{0} <code>{2}.pdf</code>, made again by <code>{3}</code></figcaption></figure>"""
FIGURES = ("losses", "groups", "median_case", "worst_case", "calibration")  # beside those of studies
_LABELS = {QUADRATURE: "quadrature baseline"}


def write_report(
    out: Location,
    result: dict[str, Any],
    problems: Problems,
    baselines: list[Baseline],
    predictions: dict[str, Predictions],
    metrics: dict[str, dict[str, np.ndarray]],
) -> Location:
    """Write report.html and its figures to `out`; returns the path of the report."""
    losses = {name: values["total_loss"] for name, values in metrics.items()}
    shown = [baseline.name for baseline in with_role(baselines, "figures") if baseline.name in losses]
    order = np.argsort(losses["model"])  # a loss that is not finite sorts last: it is the worst case
    images = _save_all(
        out,
        {
            "losses": lambda: figures.draw_losses(losses, shown, result["truth_floor"]),
            "groups": lambda: figures.draw_groups(result["groups"], shown),
            "median_case": lambda: figures.draw_case(problems, predictions["model"], int(order[len(order) // 2])),
            "worst_case": lambda: figures.draw_case(problems, predictions["model"], int(order[-1])),
            "calibration": lambda: figures.draw_calibration(result["calibration"]),
        },
    )
    measured = [study for study in study_names() if result[study] and "not_measured" not in result[study]]
    page = render(
        "report.html.j2",
        result=result,
        name=display_name(result["model"]["name"]),
        images=images,
        command=command_of(result, out),
        verdict=verdict(result),
        shown=shown,
        labels=_LABELS,
        quadrature=QUADRATURE in result["baselines"],
        sections=[_study_section(study, result, out) for study in measured],
        not_measured={study: result[study]["not_measured"] for study in study_names() if result[study] and study not in measured},
        reconstructions={b.reconstruction.name: b.reconstruction.description for b in baselines if b.reconstruction},
        **describe_task(problems),
    )
    path = out / "report.html"
    write_file(path, page.encode())
    return path


def describe_task(problems: Problems) -> dict[str, str]:
    """The equations of the system, what the sensors read, and how many there are."""
    system = problems.system
    fields = [name.replace("_", " ") for name in system.fields]
    return {
        "equations": system.equations,
        "fields": "V" if list(system.fields) == ["potential"] else " and ".join(fields),
        "sensors": " × ".join(map(str, problems.sensors)),
    }


def _study_section(name: str, result: dict[str, Any], out: Location) -> Markup:
    """The section of a study, with its figure and the command that draws it again."""
    study, entry = get_study(name), result[name]
    images = _save_all(out, {name: lambda: study.figure(entry) if study.figure else None})
    command = command_of(result, out, {"studies": [name]})

    def figure(caption: str) -> Markup:
        return Markup(_FIGURE).format(caption, images[name], name, command) if name in images else Markup()

    section = study.section
    if section.endswith(".html.j2"):
        return Markup(render(f"studies/{section}", entry=entry, figure=figure))
    return Markup(_environment(autoescape=True).from_string(section).render(entry=entry, figure=figure))


def write_comparison(out: Location, result: dict[str, Any], draw_sensors: Callable[[], figures.Figure]) -> Location:
    """Write comparison.html and its figure to `out`; returns the path of the page."""
    images = _save_all(out, {"sensors": draw_sensors})
    path = out / "comparison.html"
    write_file(path, render("comparison.html.j2", result=result, images=images).encode())
    return path


def render(template: str, **values: Any) -> str:
    """A template of this folder; numbers are formatted by the filter `number`, seconds by `duration`. HTML is escaped, Markdown is not."""
    return _environment(jinja2.select_autoescape(enabled_extensions=("html.j2",))).get_template(template).render(**values)


def _environment(autoescape: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(_TEMPLATES),
    )
    environment.filters |= {"number": _number, "duration": _duration}
    return environment


def display_name(architecture: str) -> str:
    """As it is written in prose: MambONet, not mambonet."""
    return get_architecture(architecture).__name__


def verdict(result: dict[str, Any]) -> list[str]:
    """Where the model stands against the baselines, by median and by mean; nothing is claimed below the floor.

    What a network has built in is kept apart from what it has learnt.
    """
    model, floor = result["metrics"]["total_loss"], result["truth_floor"]
    if model["median"] is None:
        return ["The model predicted states that are not finite."]
    sentences = [f"Total loss: median {model['median']:.2e}, mean {model['mean']:.2e} (label floor {floor:.1e})."]
    built_in = result["model"]["built_in"]
    if built_in is None:
        sentences.append(f"Nothing of mechanics is built into this network: it has learnt all of this from trajectories.{_learnt(result)}")
    else:
        sentences.append(f"This network has built in {built_in}.")
    if QUADRATURE in result["baselines"]:
        sentences.append(_built_in(model, result["baselines"][QUADRATURE]["total_loss"]))
    for statistic in ("median", "mean"):
        value = max(model[statistic], floor)
        known = {n: b["total_loss"][statistic] for n, b in result["baselines"].items() if b["total_loss"][statistic] is not None}
        for track, label in (("sensors", "baselines that see the same sensors"), ("oracle", "baselines that know the exact Hamiltonian")):
            group = {name: max(loss, floor) for name, loss in known.items() if result["baselines"][name]["track"] == track}
            if not group:
                continue
            beaten, best = [name for name, loss in group.items() if value < loss], min(group, key=group.__getitem__)
            sentences.append(
                f"By the {statistic}, the model is more accurate than {len(beaten)} of {len(group)} {label}{_names(beaten)}; "
                f"the most accurate of them, {best}, has {known[best]:.1e}."
            )
    return sentences


def _learnt(result: dict[str, Any]) -> str:
    """How far training has come, where the model's card says so."""
    first, best = (result["model"]["validation_loss"][which] for which in ("first", "best"))
    if not first or not best:
        return ""
    return (
        f" In training its validation loss fell from {first:.1e} after the first epoch to {best:.1e}, by a factor of {first / best:,.3g}."
    )


def _built_in(model: dict[str, Any], quadrature: dict[str, Any]) -> str:
    """How much of the accuracy is mechanics, and how much was learnt."""
    built_in = f"The quadrature from the same sensors alone has median {quadrature['median']:.1e}"
    built_in += f" and mean {quadrature['mean']:.1e}. " if quadrature["mean"] is not None else ". "
    factor = quadrature["median"] / model["median"] if model["median"] else float("inf")
    if factor > 1.0:
        return f"{built_in}What the network has learnt reduces the median by a factor of {factor:.3g}."
    return f"{built_in}What the network has learnt does not reduce the median."


def _names(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def command_of(result: dict[str, Any], out: Location, overrides: dict[str, Any] | None = None) -> str:
    """The command that writes this report again, with the settings that differ from the defaults; `overrides` replace some.

    Settings without effect, such as those of a study that is left out, are not repeated: the command line would refuse them.
    """
    model, dataset = result["model"]["folder"], result["dataset"]
    usual = EvaluationConfig().model_dump(mode="json")
    wanted = result["settings"] | (overrides or {})
    config = Config().model_copy(update={"evaluation": EvaluationConfig.model_validate(wanted)})
    idle = {condition.key for condition in keys_without_effect(config)}
    changed = {key: value for key, value in wanted.items() if value != usual[key] and f"evaluation.{key}" not in idle}
    settings = "".join(f" --set 'evaluation.{key}={json.dumps(value)}'" for key, value in changed.items())
    return f"neural-hamilton evaluate {model} --dataset {dataset['folder']} --split {dataset['split']} --out {out}{settings}"


def _save_all(out: Location, drawings: dict[str, Any]) -> dict[str, str]:
    """Draw and write each figure as PNG and PDF; the PNG as a data URI for the page. A drawing may be None."""
    images = {}
    with matplotlib.rc_context(figures.STYLE):
        for name, draw in drawings.items():
            figure = draw()
            if figure is not None:
                images[name] = _save(figure, out, name)
    return images


def _save(figure: figures.Figure, out: Location, name: str) -> str:
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is settled; each format would find it again
    figure.savefig(png, format="png", dpi=_DPI)
    figure.savefig(pdf, format="pdf")
    write_file(out / f"{name}.png", png.getvalue())
    write_file(out / f"{name}.pdf", pdf.getvalue())
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _duration(seconds: float) -> str:
    """In words: minutes, or seconds where those would be few."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.2g} seconds"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2e}" if value and (abs(value) < 1e-2 or abs(value) >= 1e4) else f"{value:.3g}"
