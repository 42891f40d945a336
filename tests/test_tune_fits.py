"""Fits of loss = E + A size^(-alpha), against laws known exactly and against simulated studies."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from neural_hamilton.physics import InputError
from neural_hamilton.tune.fits import ScalingLaw, fit_scaling_law, mean_intervals
from neural_hamilton.tune.scaling.laws import compare_laws

SIX = np.geomspace(100, 10_000, 6)
FOUR = np.geomspace(100, 10_000, 4)
few = settings(max_examples=12, deadline=None)


def law_of(sizes: np.ndarray, alpha: float = 0.5, share: float = 0.1) -> np.ndarray:
    """A loss of 1 at 10,000 rows, of which `share` is floor."""
    return share + (1 - share) * (sizes / 10_000) ** -alpha


def study(sizes: np.ndarray, repetitions: int, noise: float, seed: Any, alpha: float = 0.5, share: float = 0.1) -> np.ndarray:
    scatter = np.random.default_rng(seed).standard_normal((len(sizes), repetitions))
    return law_of(sizes, alpha, share)[:, None] * np.exp(noise * scatter)


@few
@given(alpha=st.floats(0.1, 2.0), share=st.one_of(st.just(0.0), st.floats(0.01, 0.9)), scale=st.floats(1e-12, 1e3))
def test_an_exact_law_is_recovered(alpha: float, share: float, scale: float) -> None:
    losses = scale * law_of(SIX, alpha, share)
    law = fit_scaling_law(SIX, np.stack([losses] * 2, axis=1), resamples=100)
    assert law.alpha == pytest.approx(alpha, rel=1e-4)
    assert law.floor == pytest.approx(scale * share, rel=1e-4, abs=1e-4 * scale)
    assert law.amplitude == pytest.approx(scale * (1 - share) * 10_000**alpha, rel=1e-3)
    np.testing.assert_allclose(law.predict([50, 100, 1e5]).loss, scale * law_of(np.array([50, 100, 1e5]), alpha, share), rtol=1e-4)
    assert law.alpha_interval == pytest.approx((alpha, alpha), rel=1e-2)


@few
@given(seed=st.integers(0, 1000), scale=st.floats(1e-12, 1e6), stretch=st.floats(0.01, 100.0))
def test_units_do_not_matter(seed: int, scale: float, stretch: float) -> None:
    losses = study(SIX, 3, 0.15, seed)
    one, other = (fit_scaling_law(c * SIX, k * losses, resamples=200) for c, k in ((1.0, 1.0), (stretch, scale)))
    assert other.alpha == pytest.approx(one.alpha, rel=1e-4)
    assert other.floor == pytest.approx(scale * one.floor, rel=1e-3, abs=1e-6 * scale)
    assert other.amplitude == pytest.approx(scale * stretch**one.alpha * one.amplitude, rel=1e-2)
    assert np.array(other.alpha_interval, float) == pytest.approx(np.array(one.alpha_interval, float), rel=1e-2, nan_ok=True)
    assert other.floor_interval == pytest.approx(tuple(scale * end for end in one.floor_interval or ()), rel=2e-2, abs=1e-3 * scale)
    assert (other.identified, other.preferred) == (one.identified, one.preferred)


@few
@given(seed=st.integers(0, 1000))
def test_order_does_not_matter(seed: int) -> None:
    losses = study(SIX, 3, 0.15, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(6)
    one = fit_scaling_law(SIX, losses, resamples=100)
    other = fit_scaling_law(SIX[order], [rng.permutation(losses[i]) for i in order], resamples=100)
    assert one.as_dict() == other.as_dict()


def test_the_fit_is_the_minimum_that_another_optimizer_finds() -> None:
    losses = study(SIX, 9, 0.15, 0)
    law = fit_scaling_law(SIX, losses, resamples=100)

    def objective(parameters: np.ndarray) -> float:
        floor, amplitude, alpha = parameters
        residual = np.log(losses) - np.logaddexp(floor, amplitude - alpha * np.log(SIX))[:, None]
        return float(np.where(np.abs(residual) < 1e-3, 500 * residual**2, np.abs(residual) - 5e-4).sum())

    reached = objective(np.array([math.log(law.floor), math.log(law.amplitude), law.alpha]))
    starts = [(floor, math.log(10.0) + alpha * math.log(100.0), alpha) for floor in (-4, -2, -0.5) for alpha in (0.3, 0.6, 1.0)]
    options = {"maxiter": 3000, "maxfev": 3000, "xatol": 1e-8, "fatol": 1e-10}
    best = min(optimize.minimize(objective, start, method="Nelder-Mead", options=options).fun for start in starts)
    assert reached == pytest.approx(best, rel=1e-3)  # not exactly: between equal curves squares decide
    assert best <= reached + 1e-9


def coverage(sizes: np.ndarray, repetitions: int, noise: float, share: float, studies: int, resamples: int) -> dict[str, float]:
    """How often the intervals hold the truth, and the median of alpha's error."""
    held = {"alpha": 0, "floor": 0, "law": 0, "rejected": 0}
    errors = []
    for seed in range(studies):
        law = fit_scaling_law(sizes, study(sizes, repetitions, noise, seed, share=share), resamples=resamples)
        assert law.alpha_interval is not None and law.floor_interval is not None
        low, high = law.alpha_interval
        held["alpha"] += low <= 0.5 <= (math.inf if high is None else high)
        held["floor"] += law.floor_interval[0] <= share <= law.floor_interval[1]
        there = law.predict([10_000])
        assert there.lower is not None and there.upper is not None
        held["law"] += there.lower[0] <= 1.0 <= there.upper[0]
        held["rejected"] += law.holds is False
        errors.append(law.alpha - 0.5)
    return {key: count / studies for key, count in held.items()} | {"bias": float(np.median(errors))}


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_intervals_of_few_runs_hold_the_truth(share: float) -> None:
    held = coverage(FOUR, 2, 0.15, share, studies=40, resamples=200)
    assert held["alpha"] >= 0.9 and held["floor"] >= 0.9 and held["law"] >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.1, 0.2])
@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize(("sizes", "repetitions"), [(SIX, 9), (FOUR, 2)])
def test_intervals_hold_the_truth_as_often_as_they_say(sizes: np.ndarray, repetitions: int, share: float, noise: float) -> None:
    held = coverage(sizes, repetitions, noise, share, studies=200, resamples=1000)
    assert held["alpha"] >= 0.9 and held["floor"] >= 0.92 and held["law"] >= 0.92
    assert held["rejected"] <= 0.1
    assert -0.01 <= held["bias"] <= 0.35 * noise


def test_a_clear_floor_is_preferred_and_an_absent_one_is_not() -> None:
    with_floor = fit_scaling_law(SIX, study(SIX, 9, 0.05, 1, share=0.5))
    assert with_floor.preferred == "floor" and with_floor.identified and with_floor.holds
    assert with_floor.floor_interval is not None and with_floor.floor_interval[0] < 0.5 < with_floor.floor_interval[1]
    low, high = with_floor.power_law_interval or (0.0, 1.0)
    assert high < 0.5 and low > 0.2  # without a floor alpha is too small, and its interval does not warn of that
    without = fit_scaling_law(SIX, study(SIX, 9, 0.05, 1, share=0.0))
    assert without.preferred == "power law" and without.identified
    assert without.floor_interval is not None and without.floor_interval[0] == 0.0


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (study(FOUR, 2, 0.2, 0, share=0.9), "alpha is not identified"),
        (study(FOUR, 2, 0.2, 1), "E is not identified: it may be 0% to"),
        (study(SIX, 3, 0.2, 2, alpha=0.0), "alpha is not identified"),
        (study(SIX, 1, 0.2, 3), "neither alpha nor E is identified: intervals need repetitions"),
    ],
)
def test_what_is_not_identified_is_said(losses: np.ndarray, words: str) -> None:
    law = fit_scaling_law(SIX if len(losses) == 6 else FOUR, losses)
    assert not law.identified and law.reason is not None and words in law.reason
    assert law.alpha_identified == ("alpha" not in law.reason)
    assert law.floor_identified == ("E is" not in law.reason)


def test_a_single_repetition_has_no_interval() -> None:
    law = fit_scaling_law(SIX, law_of(SIX)[:, None])
    assert (law.alpha_interval, law.floor_interval, law.lack_of_fit, law.holds, law.residual_sd) == (None,) * 5
    prediction = law.predict([1e5])
    assert prediction.lower is None and prediction.upper is None
    assert prediction.loss[0] == pytest.approx(law_of(np.array([1e5]))[0], rel=1e-3)


def test_a_curve_of_another_form_lacks_fit() -> None:
    losses = law_of(SIX)[:, None] * np.exp(0.02 * np.random.default_rng(0).standard_normal((6, 3)))
    assert fit_scaling_law(SIX, losses).holds
    losses[2:4] *= 1.3
    law = fit_scaling_law(SIX, losses)
    assert law.holds is False and law.lack_of_fit is not None and law.lack_of_fit.p_value < 1e-3


def test_the_test_of_fit_is_that_of_the_textbook() -> None:
    """A law with E = 0 leaves the lack-of-fit test of linear regression."""
    losses = study(SIX, 4, 0.1, 5, share=0.0) * (SIX[:, None] / 1000) ** (0.03 * np.log(1000 / SIX[:, None]))  # bent downwards
    law = fit_scaling_law(SIX, losses, resamples=100)
    x, y = np.repeat(np.log(SIX), 4), np.log(losses)
    line = stats.linregress(x, y.ravel())
    between = 4 * np.sum((y.mean(axis=1) - line.intercept - line.slope * np.log(SIX)) ** 2) / 4
    within = np.sum((y - y.mean(axis=1, keepdims=True)) ** 2) / 18
    assert law.floor == 0.0 and law.lack_of_fit is not None and law.lack_of_fit.freedom == (4, 18)
    assert law.lack_of_fit.statistic == pytest.approx(between / within, rel=1e-4)


def test_seeds_of_one_draw_are_one_repetition() -> None:
    rng = np.random.default_rng(0)
    draws = law_of(SIX)[:, None, None] * np.exp(0.2 * rng.standard_normal((6, 3, 1)) + 0.01 * rng.standard_normal((6, 3, 3)))
    nested = fit_scaling_law(SIX, draws)
    means = fit_scaling_law(SIX, np.exp(np.log(draws).mean(axis=2)))
    assert nested.alpha == pytest.approx(means.alpha, rel=1e-5) and nested.repetitions == (3,) * 6
    assert width(nested) == pytest.approx(width(means), rel=1e-3)
    flat = fit_scaling_law(SIX, draws.reshape(6, 9))
    assert width(flat) < width(nested)  # as if nine datasets had been drawn


def width(law: ScalingLaw) -> float:
    assert law.alpha_interval is not None and law.alpha_interval[1] is not None
    return law.alpha_interval[1] - law.alpha_interval[0]


def test_means_of_new_runs_lie_in_the_prediction_band() -> None:
    """At sizes of the study and at ten times the largest."""
    inside = []
    at = np.array([100, 1000, 10_000, 100_000])
    for seed in range(25):
        law = fit_scaling_law(SIX, study(SIX, 3, 0.15, seed), resamples=200)
        band = law.predict(at, 3)
        new = np.exp(np.log(study(at, 3, 0.15, (seed, 1))).mean(axis=1))
        assert band.lower is not None and band.upper is not None
        inside.append((band.lower <= new) & (new <= band.upper))
        narrow = law.predict(at)
        assert narrow.lower is not None and narrow.upper is not None
        assert np.all(band.lower < narrow.lower) and np.all(narrow.lower <= narrow.loss)
        assert np.all(band.upper > narrow.upper) and np.all(narrow.upper >= narrow.loss)
    assert np.mean(inside) >= 0.9


def test_the_interval_of_a_mean_is_students() -> None:
    losses = study(SIX, 3, 0.15, 0)
    law = fit_scaling_law(SIX, losses, resamples=100)
    means, lower, upper = mean_intervals(law, list(losses))
    assert lower is not None and upper is not None
    np.testing.assert_allclose(means, stats.gmean(losses, axis=1))
    sd = math.sqrt(np.var(np.log(losses), axis=1, ddof=1).mean())
    np.testing.assert_allclose(np.log(upper / means), stats.t.ppf(0.975, 12) * sd / math.sqrt(3))
    np.testing.assert_allclose(upper / means, means / lower)


def test_two_laws_are_compared() -> None:
    fast, slow, same = (
        fit_scaling_law(SIX, study(SIX, 9, 0.05, seed, alpha), resamples=500) for seed, alpha in ((0, 0.8), (1, 0.5), (2, 0.5))
    )
    difference = compare_laws(fast, slow)
    low, high = difference["alpha_interval"]
    assert 0 < low < 0.3 < high
    assert difference["ratio_interval"][0] < 1.0 < difference["ratio_interval"][1]  # both have a loss of 1 there
    low, high = compare_laws(slow, same)["alpha_interval"]
    assert low < 0 < high
    alone = compare_laws(fast, fit_scaling_law(SIX, law_of(SIX)[:, None]))
    assert alone["alpha_interval"] is None and alone["ratio_interval"] is None


@pytest.mark.parametrize(
    ("sizes", "losses", "words"),
    [
        (SIX[:3], study(SIX[:3], 3, 0.1, 0), "sizes has 3 values; a law with a floor needs at least 4"),
        (SIX, study(SIX, 3, 0.1, 0)[:5], "sizes has 6 values and losses has 5"),
        ([100, 100, 200, 300], study(FOUR, 3, 0.1, 0), "sizes is 100, 100, 200, 300; give different"),
        ([0, 100, 200, 300], study(FOUR, 3, 0.1, 0), "different positive"),
        (FOUR, [[1.0, 2.0], [1.0], [0.5, 0.0], [0.2]], "contain 0; the logarithm needs positive"),
        (FOUR, [[1.0, 2.0], [1.0], [0.5, -1.0], [0.2]], "contain -1;"),
        (FOUR, [[1.0, math.nan], [1.0], [0.5], [0.2]], "the losses of size 100 contain nan"),
        (FOUR, [[1.0, math.inf], [1.0], [0.5], [0.2]], "contain inf"),
        (FOUR, [[1.0], [], [0.5], [0.2]], "not empty"),
    ],
)
def test_bad_input_is_refused(sizes: Any, losses: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_scaling_law(sizes, losses)


def test_bad_settings_are_refused() -> None:
    losses = study(FOUR, 2, 0.1, 0)
    with pytest.raises(InputError, match=r"confidence is 1\.0"):
        fit_scaling_law(FOUR, losses, confidence=1.0)
    with pytest.raises(InputError, match="resamples is 10; give at least 100"):
        fit_scaling_law(FOUR, losses, resamples=10)
