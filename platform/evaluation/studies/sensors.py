"""Fewer sensors and noisy ones, where knowing the family of Hamiltonians is worth more than a good interpolant.

Every baseline here integrates so tightly that its error is that of its reconstruction.
"""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from ....architectures import Operator
from ....physics.systems import Baseline, Problems
from ...config import EvaluationConfig
from .. import figures
from ..metrics import summarise, total_losses
from ..predictions import predict
from ..study import Study, Subject, has_exact_hamiltonians


def measure_sensors(
    models: dict[str, tuple[Operator, tuple[int, ...]]],
    baselines: list[Baseline],
    problems: Problems,
    settings: EvaluationConfig,
    advance: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """One entry for each number of sensors along an axis and each level of noise, all on the same problems.

    An entry holds summaries of the total loss of every reconstruction, and of each model that reads that many sensors;
    `models` maps a name to a model and its sensors.
    """
    results = []
    for count in settings.sensor_counts or problems.system.sensor_counts:
        for noise in [0.0, *settings.noise_levels]:
            sensors = (count,) * problems.system.degrees_of_freedom
            seen = problems.at_sensors(sensors, noise, settings.seed)
            found = {name: predict(model, seen, settings.batch_size) for name, (model, own) in models.items() if own == sensors}
            found |= {baseline.name: baseline.states(seen) for baseline in baselines if baseline.why_not(seen) is None}
            losses = {name: total_losses(seen, x.q, x.p) for name, x in found.items()}
            summaries = {name: summarise(values, settings.bootstrap, settings.seed) for name, values in losses.items()}
            results.append({"sensors": count, "noise": noise, "rows": len(seen), "total_loss": summaries})
            advance()
    return results


def measure(subject: Subject) -> list[dict[str, Any]]:
    """See `measure_sensors`."""
    models = {"model": (subject.model, subject.trained_for.sensors)}
    baselines = [baseline for baseline in subject.baselines if "reconstructions" in baseline.roles]
    return measure_sensors(models, baselines, subject.problems, subject.settings)


def draw_sensors(study: list[dict[str, Any]], networks: list[str]) -> Figure:
    """Mean total loss against the number of sensors, a panel for each level of noise."""
    levels = sorted({entry["noise"] for entry in study})
    figure, axes = figures.subplots(1, len(levels), figsize=(3.6 * len(levels), 3.9), sharey=True, squeeze=False)
    for axis, level in zip(axes[0], levels, strict=True):
        entries = [entry for entry in study if entry["noise"] == level]
        solvers = dict.fromkeys(name for entry in entries for name in entry["total_loss"] if name not in networks)
        for name in solvers:
            known = [entry for entry in entries if name in entry["total_loss"]]
            figures.draw_line(axis, [e["sensors"] for e in known], [e["total_loss"][name]["mean"] for e in known], name)
        seen = [(e["sensors"], e["total_loss"][name]["mean"], name) for e in entries for name in networks if name in e["total_loss"]]
        for number, (count, loss, name) in enumerate(seen):
            if loss is not None:
                colour = figures.MODEL_COLOUR if len(networks) == 1 else f"C{number}"
                axis.plot([count], [loss], "*", ms=11, color=colour, label=name, zorder=4)
        axis.set(xscale="log", yscale="log", xlabel="sensors", title=f"noise {level:g}" if level else "no noise")
        axis.set_xticks([e["sensors"] for e in entries], [str(e["sensors"]) for e in entries])
        axis.minorticks_off()
    axes[0][0].set_ylabel("mean total loss")
    figures.legend_below(figure, axes.flat)
    return figure


STUDY = Study("sensors", measure, "sensors.html.j2", (has_exact_hamiltonians,), figure=lambda entry: draw_sensors(entry, ["model"]))
