"""Named cases: single problems with exact solutions, for the model and every baseline."""

from typing import Any

import numpy as np

from .metrics import finite_or_none, total_losses
from .problems import case_problem
from .study import Subject

NUM_TIMES = 100


def measure_cases(subject: Subject, kind: str) -> dict[str, dict[str, Any]]:
    """Total loss on every named case of a kind at 100 uniform times; None where a prediction is not finite."""
    times = np.linspace(0.0, subject.trained_for.horizon, NUM_TIMES)
    results = {}
    for case in find_cases(subject, kind):
        problem = case_problem(case, subject.system, subject.problems.ensemble, subject.trained_for.sensors, times)
        predictions = {"model": subject.predict(problem)}
        with np.errstate(all="ignore"):  # a cusp can throw a solver anywhere
            predictions |= {baseline.name: baseline.states(problem) for baseline in subject.with_role("table", problem)}
        losses = {solver: total_losses(problem, x.q, x.p)[0] for solver, x in predictions.items()}
        results[case.name] = {solver: finite_or_none(loss) for solver, loss in losses.items()}
    return results


def find_cases(subject: Subject, kind: str) -> list[Any]:
    """The named cases of a kind from initial states that the model was trained on."""
    return [case for case in subject.system.named_cases(subject.trained_for.initial_state) if case.kind == kind]
