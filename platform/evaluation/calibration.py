"""Can an answer tell how wrong it is? Scores that need no truth, how well they rank errors, and a threshold for serving.

A score is computed from the answer and the sensors alone, with V as the cubic spline through them.

Shapes: N problems, T query times.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import beta, spearmanr

from ...physics import Curves
from ...physics.diagnostics import energy_drift
from ...physics.potentials.textbook import WALL_HEIGHT
from .metrics import finite_or_none
from .problems import Problems

_CONFIDENCE = 0.95
_CURVE_POINTS = 50


def score_answers(problems: Problems, splines: Curves, q: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """`energy_drift` as serving reports it, and `ode_defect`, both (N,)."""
    start, lowest = problems.initial, splines.extrema()[0]
    with np.errstate(all="ignore"):
        energy = 0.5 * start[:, 1] ** 2 + splines.value(start[:, 0])
        drift = energy_drift(splines.value(q), p, energy, WALL_HEIGHT - lowest)
        return {"energy_drift": drift, "ode_defect": ode_defect(problems.times, q, p, -splines.gradient(q), splines.curvature(q))}


def ode_defect(times: np.ndarray, q: np.ndarray, p: np.ndarray, force: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """How far answers (N, T) are from solving q' = p, p' = force, (N,): root mean square over the steps between query times.

    Over each step the change of q is compared with the integral of p, and that of p with that of the force, both by
    Hermite's rule h (f0 + f1) / 2 - h^2 (f1' - f0') / 12, whose error is of order h^5; and divided by the step.
    """
    h = np.diff(times)
    safe = np.maximum(h, 1e-6)  # query times may coincide
    jerk = -curvature * p

    def defect(state: np.ndarray, rate: np.ndarray, rate_of_rate: np.ndarray) -> np.ndarray:
        integral = 0.5 * h * (rate[:, 1:] + rate[:, :-1]) - h**2 / 12.0 * np.diff(rate_of_rate)
        return (np.diff(state) - integral) / safe

    return np.sqrt(0.5 * np.mean(defect(q, p, force) ** 2 + defect(p, force, jerk) ** 2, axis=1))


def calibrate(
    problems: Problems, scores: dict[str, np.ndarray], q: np.ndarray, p: np.ndarray, tolerated: float, risk: float
) -> dict[str, Any]:
    """How each score ranks the largest error of q or p, (N,), and the threshold below which answers may be trusted.

    `threshold` is a score such that, with 95% confidence, at most a share `risk` of the answers that score no more are wrong by
    more than `tolerated`; None where no score separates so well, or too few rows were seen. It is found from the strictest on,
    each held against the interval of Clopper and Pearson, up to the first that fails: so that trying many does not weaken
    the confidence (fixed-sequence testing: "Learn then test", arXiv 2110.01052).
    """
    with np.errstate(all="ignore"):
        errors = np.maximum(np.abs(q - problems.q).max(axis=1), np.abs(p - problems.p).max(axis=1))
    errors = np.where(np.isfinite(errors), errors, np.inf)
    scores = {name: np.where(np.isfinite(values), values, np.inf) for name, values in scores.items()}
    return {
        "tolerated_error": tolerated,
        "risk": risk,
        "share_wrong": float(np.mean(errors > tolerated)),
        "scores": {name: _judge(values, errors, tolerated, risk) for name, values in scores.items()},
    }


def _judge(score: np.ndarray, errors: np.ndarray, tolerated: float, risk: float) -> dict[str, Any]:
    order = np.argsort(score, kind="stable")
    accepted = np.arange(1, score.size + 1)
    wrong = np.cumsum(errors[order] > tolerated)
    # The upper end of the Clopper-Pearson interval of the share of wrong answers among those accepted.
    upper = np.where(wrong < accepted, beta.ppf(_CONFIDENCE, wrong + 1, np.maximum(accepted - wrong, 1)), 1.0)
    fewest = math.ceil(math.log(1.0 - _CONFIDENCE) / math.log(1.0 - risk))  # of which none wrong would be enough
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
