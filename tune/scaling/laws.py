"""The laws of a dataset-size study: how the losses of a contestant fall with the rows, and what that means in words."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..fits import NUM_SIZES, ScalingLaw, confidence_band, fit_power_law, fit_scaling_law


def by_size(rows: list[dict[str, Any]], statistic: str) -> dict[int, list[float]]:
    """The repetitions of each size, in ascending order: losses that have a logarithm.

    Where the rows are of several draws of the dataset, a repetition is the geometric mean over the seeds of a draw, because runs on the
    same rows are not independent of each other; else it is a run.
    """
    usable = [row for row in rows if np.isfinite(row[statistic]) and row[statistic] > 0]
    of_a_draw = len({row["draw"] for row in rows}) > 1
    groups: dict[int, dict[tuple[int, ...], list[float]]] = {size: {} for size in sorted({row["size"] for row in usable})}
    for row in usable:
        repetition = (row["draw"],) if of_a_draw else (row["draw"], row["seed"])
        groups[row["size"]].setdefault(repetition, []).append(float(np.log(row[statistic])))
    return {size: [float(np.exp(np.mean(logs))) for logs in repetitions.values()] for size, repetitions in groups.items()}


def fit_losses(losses: dict[int, list[float]], confidence: float) -> tuple[dict[str, Any], ScalingLaw | None]:
    """The entry of one contestant and statistic in scaling.json, and its law with a floor where there are enough sizes.

    The dictionary is that of `fit_power_law`, with `law` (`ScalingLaw.as_dict`, or None and `law_note` says why) and `held_out`.
    """
    fit = fit_power_law(*_flat(losses), confidence)
    law = fit_scaling_law(list(losses), list(losses.values()), confidence) if len(losses) >= NUM_SIZES else None
    note = None if law else f"no floor: a law with one needs at least {NUM_SIZES} sizes, there are {len(losses)}"
    return fit | {"law": law and law.as_dict(), "law_note": note, "held_out": held_out(losses, confidence)}, law


def held_out(losses: dict[int, list[float]], confidence: float) -> dict[str, Any] | None:
    """The largest size, predicted from the others; None without two others.

    Keys: `size`; `measured`, the geometric mean of its losses; `predicted`, with the interval for the mean of as many new runs, or None;
    `inside`, whether that holds what was measured; and `model`, "floor", or "power law" where the others are too few for a floor.
    """
    if len(losses) < 3:
        return None
    size = max(losses)
    others = {other: values for other, values in losses.items() if other < size}
    measured, repetitions = float(np.exp(np.mean(np.log(losses[size])))), len(losses[size])
    interval = None
    if len(others) >= NUM_SIZES:
        prediction = fit_scaling_law(list(others), list(others.values()), confidence).predict([size], repetitions)
        predicted = float(prediction.loss[0])
        if prediction.lower is not None and prediction.upper is not None:
            interval = [float(prediction.lower[0]), float(prediction.upper[0])]
    else:
        sizes, values = _flat(others)
        line = fit_power_law(sizes, values, confidence)
        predicted = line["a"] * size ** -line["b"]
        if line["b_interval"] is not None:
            interval = [float(end[0]) for end in confidence_band(sizes, line, confidence, np.array([size]), repetitions)]
    return {
        "size": size,
        "model": "floor" if len(others) >= NUM_SIZES else "power law",
        "measured": measured,
        "predicted": float(predicted),
        "interval": interval,
        "inside": None if interval is None else interval[0] <= measured <= interval[1],
    }


def compare_all(laws: dict[str, ScalingLaw]) -> list[dict[str, Any]]:
    """Neighbours in the order of their laws at the largest size, each compared by `compare_laws`, the worse with the better."""
    order = sorted(laws, key=lambda name: float(laws[name].predict([laws[name].sizes[-1]]).loss[0]))
    return [{"better": one, "worse": two} | compare_laws(laws[two], laws[one]) for one, two in pairwise(order)]


def compare_laws(first: ScalingLaw, second: ScalingLaw) -> dict[str, Any]:
    """The difference of alpha, first minus second, and the ratio of the losses at the largest size that both have; with intervals.

    Intervals combine those of the two laws (method of variance estimates recovery, Zou and Donner 2008): the distances from estimate
    to limit add in quadrature. Runs of the two are taken as independent, which makes intervals too wide where they share their noise.
    None: no interval; a limit of None: no limit.
    """
    size = min(first.sizes[-1], second.sizes[-1])
    losses = [law.predict([size]) for law in (first, second)]
    triples = [(np.log(each.loss[0]), *_logs(each.lower, each.upper)) for each in losses]
    ratio = _difference(*triples)
    alphas = [(law.alpha, *(law.alpha_interval or (np.nan, np.nan))) for law in (first, second)]
    difference = _difference(*[tuple(np.inf if value is None else value for value in each) for each in alphas])
    return {
        "alpha_difference": difference[0],
        "alpha_interval": _limits(difference[1:]),
        "size": size,
        "ratio": float(np.exp(ratio[0])),
        "ratio_interval": _limits(np.exp(ratio[1:])),
    }


def _logs(lower: np.ndarray | None, upper: np.ndarray | None) -> tuple[float, float]:
    return (np.nan, np.nan) if lower is None or upper is None else (float(np.log(lower[0])), float(np.log(upper[0])))


def _difference(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, float, float]:
    """Estimate and limits of first - second, each (estimate, lower, upper)."""
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return float(a - b), float(a - b - np.hypot(a - a_low, b_high - b)), float(a - b + np.hypot(a_high - a, b - b_low))


def _limits(values: Any) -> list[float | None] | None:
    return None if np.isnan(values).any() else [float(value) if np.isfinite(value) else None for value in values]


def fit_text(fit: dict[str, Any], confidence: float) -> str:
    """The fitted law in words, or why there is none."""
    if fit["b"] is None:
        return fit["note"]
    parts = [_line_text(fit, confidence)] if fit.get("law") is None else _law_texts(fit["law"], confidence)
    if fit.get("law_note"):
        parts.append(fit["law_note"])
    if fit.get("held_out"):
        parts.append(_held_out_text(fit["held_out"]))
    return "; ".join(parts)


def _line_text(fit: dict[str, Any], confidence: float) -> str:
    law = f"loss = {fit['a']:.3g} * size^(-b), b = {fit['b']:.3f}"
    if fit["b_interval"] is None:
        return f"{law}, {fit['note']}"
    low, high = fit["b_interval"]
    return f"{law} ({low:.3f} to {high:.3f} at {confidence:.0%}, {fit['points']} points)"


def _law_texts(law: dict[str, Any], confidence: float) -> list[str]:
    alpha = f"alpha = {law['alpha']:.3f}{span_text(law['alpha_interval'], '.3f')}"
    floor = f"E = {law['floor']:.3g}{span_text(law['floor_interval'], '.3g')}"
    parts = [f"loss = E + A * size^(-alpha), {alpha}, {floor}, A = {law['amplitude']:.3g}, intervals at {confidence:.0%}"]
    if law["reason"]:
        parts.append(law["reason"])
    lack = law["lack_of_fit"]
    if law["holds"] is False:
        parts.append(f"the law does not hold: its lack of fit exceeds the scatter of the runs (F test, p = {lack['p_value']:.2g})")
    elif lack is None:
        parts.append("no test of whether the law holds: it needs a size more, and repetitions")
    plain = f"alpha = {law['power_law_alpha']:.3f}{span_text(law['power_law_interval'], '.3f')}"
    if law["preferred"] == "floor":
        parts.append(f"a power law without E is excluded (it would have {plain})")
    else:
        parts.append(f"E = 0 is not excluded, and a power law without E has {plain}")
    return parts


def _held_out_text(held: dict[str, Any]) -> str:
    words = "" if held["inside"] is None else ", inside" if held["inside"] else ", outside"
    predicted = f"{held['predicted']:.3g}{span_text(held['interval'], '.3g')}"
    return f"held out, {held['size']:,} rows: {predicted} predicted by the {_MODELS[held['model']]}, {held['measured']:.3g} measured{words}"


_MODELS = {"floor": "law of the smaller sizes", "power law": "power law of the smaller sizes"}


def comparison_text(pair: dict[str, Any], confidence: float) -> str:
    """What a comparison of two laws means, as a sentence."""
    low, high = pair["alpha_interval"] or (None, None)
    difference = f"{pair['alpha_difference']:+.3f}{span_text(pair['alpha_interval'], '+.3f')}"
    if pair["alpha_interval"] is None:
        slopes = f"alpha of `{pair['worse']}` minus that of `{pair['better']}` is {difference}, without an interval"
    elif (low is not None and low > 0) or (high is not None and high < 0):
        slopes = f"alpha of `{pair['worse']}` minus that of `{pair['better']}` is {difference}"
    else:
        slopes = f"alpha of `{pair['worse']}` and of `{pair['better']}` do not differ significantly, {difference}"
    ratio = f"{pair['ratio']:.3g}{span_text(pair['ratio_interval'], '.3g')} times"
    laws = f"the law of `{pair['worse']}` is {ratio} that of `{pair['better']}`"
    return f"{slopes}; at {pair['size']:,.0f} rows {laws}; intervals at {confidence:.0%}"


def span_text(interval: Sequence[float | None] | None, form: str) -> str:
    """An interval in brackets, with a space before it; nothing where there is none."""
    if interval is None:
        return ""
    low, high = interval
    if low is None:
        return " (no limit)" if high is None else f" (at most {high:{form}})"
    return f" ({low:{form}} upwards)" if high is None else f" ({low:{form}} to {high:{form}})"


def _flat(losses: dict[int, list[float]]) -> tuple[list[int], list[float]]:
    return [size for size, values in losses.items() for _ in values], [value for values in losses.values() for value in values]
