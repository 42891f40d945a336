"""Non-smooth potentials: cusps, kinks and jumps, which no training set holds."""

from typing import Any

from ..named import find_cases, measure_cases
from ..study import Study, Subject

_KIND = "non-smooth"


def has_cases(subject: Subject) -> str | None:
    """Whether the system has non-smooth cases from the model's initial states."""
    if find_cases(subject, _KIND):
        return None
    return f"system {subject.system.name!r} has no non-smooth cases from the initial states that the model was trained on"


def measure(subject: Subject) -> dict[str, dict[str, Any]]:
    """The total loss of each case, whose truth is a closed form or goes from event to event."""
    return measure_cases(subject, _KIND)


STUDY = Study("non_smooth", measure, "non_smooth.html.j2", (has_cases,))
