"""Problems that no training set holds: textbook potentials, kinks and jumps, and ensembles that differ from the presets."""

from typing import Any

import numpy as np

from ....architectures import Operator
from ....physics import NAMED_POTENTIALS, InputError, NamedPotential
from ....physics.diagnostics import total_loss
from ....physics.potentials.textbook import piecewise_linear, power_law, steps
from ....physics.systems import Ensemble, get_system
from ..answers import ask, predict, solve
from ..metrics import measure, summarise
from ..problems import Problems
from ..solvers import Baseline, reconstruct, solve_named

HORIZON = get_system("well").horizon

FROM_WALL, FROM_INSIDE = (0.0, 0.0), (0.4, 0.0)
_MOVING = (0.35, 1.0)  # a start from which steps are felt: at rest on a level piece nothing ever happens


def textbook_start(preset: str) -> tuple[float, float]:
    """Where the particle starts in a textbook potential: as preset `paper` has it, or at rest inside the well."""
    return FROM_WALL if preset == "paper" else FROM_INSIDE


def rough_potentials(preset: str) -> list[tuple[NamedPotential, tuple[float, float]]]:
    """The non-smooth ladder and its starts: from cusps over kinks to a jump of the curvature, and polygons.

    Wells with steps only where the particle may start with a momentum.
    """
    start = textbook_start(preset)
    ladder = [power_law(exponent) for exponent in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.5, 3.0, 4.0)]
    polygons = [
        piecewise_linear([(0.0, 2.0), (0.3, 0.0), (0.7, 0.0), (1.0, 2.0)], "trough"),
        piecewise_linear([(0.0, 2.0), (0.25, 0.0), (0.5, 1.0), (0.75, 0.5), (1.0, 2.0)], "two-kinked-wells"),
    ]
    jumps = [
        steps([0.2, 0.8], [1.0, 0.0, 1.0], "stepped-well"),
        steps([0.3, 0.5, 0.7], [1.5, 0.5, 0.0, 1.0], "staircase"),
    ]
    return [(potential, start) for potential in [*ladder, *polygons]] + [(potential, _MOVING) for potential in jumps if preset != "paper"]


def measure_textbook(model: Operator, baselines: list[Baseline], preset: str) -> dict[str, dict[str, Any]]:
    """Total loss on every named potential at 100 uniform times, for the model and every baseline; None where not finite."""
    return {name: _measure_one(model, baselines, potential, textbook_start(preset)) for name, potential in NAMED_POTENTIALS.items()}


def measure_rough(model: Operator, baselines: list[Baseline], preset: str) -> dict[str, dict[str, Any]]:
    """The same on the non-smooth ladder, whose truth is a closed form or goes from event to event."""
    return {potential.name: _measure_one(model, baselines, potential, start) for potential, start in rough_potentials(preset)}


def _measure_one(model: Operator, baselines: list[Baseline], potential: NamedPotential, start: tuple[float, float]) -> dict[str, Any]:
    times = np.linspace(0.0, HORIZON, 100)
    sensors = potential.value(np.linspace(0.0, 1.0, model.task.num_sensors)).astype(np.float32).astype(np.float64)
    truth = potential.truth(times, *start)
    losses = {"model": total_loss(*ask(model, sensors, times, start), *truth)}
    with np.errstate(all="ignore"):  # a cusp can throw a solver anywhere
        for baseline in baselines:
            losses[baseline.name] = total_loss(*solve_named(baseline, potential, sensors, start, times), *truth)
    return {solver: float(loss) if np.isfinite(loss) else None for solver, loss in losses.items()}


def other_ensembles(preset: str) -> dict[str, Ensemble]:
    """Ensembles beside the preset, in one respect each; and the preset itself, to compare with."""
    ensemble = get_system("well").get_ensemble(preset)()
    return {"as trained": ensemble} | ensemble.variants()


def measure_ensembles(
    model: Operator, baselines: list[Baseline], preset: str, count: int, resamples: int, seed: int, batch_size: int
) -> dict[str, dict[str, Any]]:
    """Summaries of the total loss on `count` problems of each of `other_ensembles`; an ensemble that cannot be drawn says why."""
    results: dict[str, dict[str, Any]] = {}
    for name, ensemble in other_ensembles(preset).items():
        try:
            problems = Problems.draw(ensemble, seed, count, model.task.num_sensors)
        except InputError as error:
            results[name] = {"not_measured": str(error)}
            continue
        answers = {"model": predict(model, problems, batch_size)}
        answers |= {baseline.name: solve(baseline, reconstruct(baseline.potential, problems), problems) for baseline in baselines}
        losses = {solver: measure(problems, answer.q, answer.p)["total_loss"] for solver, answer in answers.items()}
        results[name] = {"truth_floor": problems.floor, "rows": count} | {
            solver: summarise(values, resamples, seed) for solver, values in losses.items()
        }
    return results
