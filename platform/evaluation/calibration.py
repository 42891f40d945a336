"""Scores that estimate how wrong a prediction is without the truth: how well they rank errors, and a threshold for serving.

A score is computed from the prediction and the sensors alone, with the Hamiltonian as `system.from_sensors` interpolates it.

Shapes: N problems, T query times, d degrees of freedom.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import beta, spearmanr

from ...physics.systems import Problems
from .metrics import finite_or_none, largest_errors

_CONFIDENCE = 0.95
_CURVE_POINTS = 50


def score_predictions(problems: Problems, q: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """`energy_drift` as serving reports it, and `ode_defect`, both (N,)."""
    system = problems.system
    sensed = system.from_sensors(problems.fields)
    drift = system.energy_drift(sensed, problems.q0, problems.p0, q, p)
    with np.errstate(all="ignore"):
        rates = system.rates(sensed, q, p), system.second_rates(sensed, q, p)
        return {"energy_drift": drift, "ode_defect": ode_defect(problems.times, (q, p), *rates)}


States = tuple[np.ndarray, np.ndarray]


def ode_defect(times: np.ndarray, states: States, rates: States, second_rates: States) -> np.ndarray:
    """How far states q, p along trajectories are from solving Hamilton's equations, (N,): root mean square over time steps.

    `rates` and `second_rates` are the first and second derivatives of q and p in time that the equations give there. Over each
    step the change of a component is compared with the integral of its rate by Hermite's rule
    h (f0 + f1) / 2 - h^2 (f1' - f0') / 12, whose error is of order h^5; and divided by the step.
    """
    widen = (..., *[None] * (states[0].ndim - 2))
    h = np.diff(times)[widen]
    safe = np.maximum(h, 1e-6)  # query times may coincide

    def defect(state: np.ndarray, rate: np.ndarray, second: np.ndarray) -> np.ndarray:
        integral = 0.5 * h * (rate[:, 1:] + rate[:, :-1]) - h**2 / 12.0 * np.diff(second, axis=1)
        return (np.diff(state, axis=1) - integral) / safe

    defect_q, defect_p = (defect(*parts) for parts in zip(states, rates, second_rates, strict=True))
    return np.sqrt(0.5 * np.mean((defect_q**2 + defect_p**2).reshape(len(times), -1), axis=1))


def calibrate(
    problems: Problems, scores: dict[str, np.ndarray], q: np.ndarray, p: np.ndarray, tolerated: float, risk: float
) -> dict[str, Any]:
    """How each score ranks the largest error of q or p, (N,), and the threshold below which predictions may be trusted.

    `threshold` is a score such that, with 95% confidence, at most a fraction `risk` of the predictions that score no more are
    wrong by more than `tolerated`; None where no score separates so well, or there are too few rows. Thresholds are tried from
    the strictest on, each with the interval of Clopper and Pearson, up to the first that fails. Trying many does not weaken
    the confidence then (fixed-sequence testing: "Learn then test", arXiv 2110.01052).
    """
    errors = largest_errors(problems, q, p)
    scores = {name: np.where(np.isfinite(values), values, np.inf) for name, values in scores.items()}
    return {
        "tolerated_error": tolerated,
        "risk": risk,
        "fraction_wrong": float(np.mean(errors > tolerated)),
        "scores": {name: _judge(values, errors, tolerated, risk) for name, values in scores.items()},
    }


def _judge(score: np.ndarray, errors: np.ndarray, tolerated: float, risk: float) -> dict[str, Any]:
    order = np.argsort(score, kind="stable")
    accepted = np.arange(1, score.size + 1)
    wrong = np.cumsum(errors[order] > tolerated)
    # The upper end of the Clopper-Pearson interval of the fraction of wrong predictions among those accepted.
    upper = np.where(wrong < accepted, beta.ppf(_CONFIDENCE, wrong + 1, np.maximum(accepted - wrong, 1)), 1.0)
    fewest = math.ceil(math.log(1.0 - _CONFIDENCE) / math.log(1.0 - risk))  # rows that would be enough if none were wrong
    last_of_equals = np.append(score[order][1:] > score[order][:-1], True)
    tried = np.flatnonzero((accepted >= fewest) & last_of_equals)
    fails = (upper[tried] > risk) | ~np.isfinite(score[order[tried]])
    safe = tried[: fails.argmax() if fails.any() else None]
    points = np.unique(np.linspace(0, score.size - 1, _CURVE_POINTS).astype(int))
    ideal = np.sort(errors)
    finite = np.isfinite(errors) & np.isfinite(score)
    return {
        "rank_correlation": _rank_correlation(score[finite], errors[finite]),
        "threshold": float(score[order[safe[-1]]]) if safe.size else None,
        "coverage": float((safe[-1] + 1) / score.size) if safe.size else 0.0,
        "curve": [
            {
                "coverage": float(accepted[i] / score.size),
                "mean_error": finite_or_none(errors[order[: i + 1]].mean()),
                "worst_error": finite_or_none(errors[order[: i + 1]].max()),
                "ideal_mean_error": finite_or_none(ideal[: i + 1].mean()),
            }
            for i in points
        ],
    }


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's; None where either does not vary."""
    if x.size < 2 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return None
    correlation: Any = spearmanr(x, y)
    return float(correlation.statistic)
