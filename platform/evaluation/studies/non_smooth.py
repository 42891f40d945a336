"""Non-smooth potentials: cusps, kinks and jumps. No training set holds one exactly."""

from typing import Any

import numpy as np

from ..named import NUM_TIMES, find_cases, measure_cases
from ..problems import shape_problems
from ..study import Study, Subject

_KIND = "non-smooth"


def has_cases(subject: Subject) -> str | None:
    """Whether the system has non-smooth cases from the model's initial states."""
    if find_cases(subject, _KIND):
        return None
    return f"system {subject.system.name!r} has no non-smooth cases from the initial states that the model was trained on"


def measure(subject: Subject) -> dict[str, Any]:
    """`cases`: the total loss of each named case; `kinds`: its summary over `study_rows` random problems of each kind.

    The truth is a closed form, a quadrature between the kinks, or a motion from event to event.
    """
    return {"cases": measure_cases(subject, _KIND), "kinds": _measure_kinds(subject)}


def _measure_kinds(subject: Subject) -> dict[str, dict[str, Any]]:
    system, settings, trained = subject.system, subject.settings, subject.trained_for
    times = np.linspace(0.0, trained.horizon, NUM_TIMES)
    # An oracle's V' does not show a jump, and Python follows kinks slowly.
    results = {}
    for kind, shapes in system.shapes(trained.initial_state, settings.study_rows, settings.seed).items():
        problems = shape_problems(shapes, system, subject.ensemble, trained.sensors, times)
        baselines = [baseline for baseline in subject.with_role("studies", problems) if baseline.track == "sensors"]
        results[kind] = {"rows": len(problems)} | subject.summarise_losses(problems, baselines)
    return results


STUDY = Study("non_smooth", measure, "non_smooth.html.j2", (has_cases,))
