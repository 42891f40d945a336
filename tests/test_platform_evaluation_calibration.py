"""Scores that need no truth, and the promise of their thresholds."""

import math

import numpy as np
import pytest
from evaluation_helpers import harmonic_problems
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, spearmanr

from neural_hamilton.platform.evaluation.calibration import calibrate, ode_defect, score_predictions
from neural_hamilton.platform.evaluation.metrics import largest_errors


def harmonic_rates(problems, q, p):
    """First and second derivatives of q and p in time, by Hamilton's equations in 8 (q - 1/2)^2."""
    force = -16.0 * (q - 0.5)
    return (p, force), (force, -16.0 * p)


def threshold(scores, wrong, risk):
    """The threshold found for predictions of which some are wrong."""
    problems = harmonic_problems(scores.size, num_times=2)
    q = problems.q + np.where(wrong, 0.1, 1e-4)[:, None]
    return calibrate(problems, {"s": scores}, q, problems.p, 0.01, risk)["scores"]["s"]["threshold"]


class TestScores:
    def test_defect_of_exact_motion_is_of_fourth_order(self):
        defects = []
        for count in (25, 50):
            problems = harmonic_problems(num_times=count)
            states = problems.q, problems.p
            defects.append(ode_defect(problems.times, states, *harmonic_rates(problems, *states)))
        assert np.median(np.log2(defects[0] / defects[1])) == pytest.approx(4.0, abs=0.3)

    def test_defect_sees_what_energy_does_not(self):
        """Motion along the right orbit by a wrong clock keeps the energy, and breaks the equation."""
        problems = harmonic_problems()
        states = 0.5 + 0.1 * np.sin(3.6 * problems.times), 0.4 * np.cos(3.6 * problems.times)
        assert np.all(ode_defect(problems.times, states, *harmonic_rates(problems, *states)) > 1e-2)

    def test_defect_of_several_components_is_that_of_one_where_all_are_equal(self):
        problems = harmonic_problems()
        states = problems.q + 0.01 * problems.times**2, problems.p
        parts = states, *harmonic_rates(problems, *states)
        doubled = [tuple(np.stack([x, x], axis=-1) for x in pair) for pair in parts]
        np.testing.assert_allclose(ode_defect(problems.times, *doubled), ode_defect(problems.times, *parts), rtol=1e-12)

    def test_general_derivatives_give_the_scores_of_the_exact_ones(self):
        """The well has V' and V'' at hand; a system without them takes differences."""
        from neural_hamilton.physics.systems import generic

        problems = harmonic_problems()
        q, p = problems.q + 0.01, problems.p
        exact = problems.system.rates(problems.hamiltonians, q, p), problems.system.second_rates(problems.hamiltonians, q, p)
        general = generic.rates(problems.hamiltonians, q, p), generic.second_rates(problems.hamiltonians, q, p)
        for ours, theirs in zip(exact, general, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-8)

    def test_scores_rank_growing_errors(self):
        problems = harmonic_problems(40)
        size = np.geomspace(1e-4, 0.1, 40)[:, None]
        q, p = problems.q + size * np.sin(7 * problems.times), problems.p + size * np.cos(5 * problems.times)
        scores = score_predictions(problems, q, p)
        result = calibrate(problems, scores, q, p, tolerated=0.01, risk=0.3)
        errors = largest_errors(problems, q, p)
        assert result["fraction_wrong"] == pytest.approx(np.mean(errors > 0.01))
        for name, entry in result["scores"].items():
            assert entry["rank_correlation"] == pytest.approx(spearmanr(scores[name], errors).statistic) and entry["rank_correlation"] > 0.9
            accepted = scores[name] <= entry["threshold"]
            assert accepted.mean() == pytest.approx(entry["coverage"]) and np.mean(errors[accepted] > 0.01) <= 0.3
            assert entry["curve"][-1]["coverage"] == 1.0 and entry["curve"][-1]["worst_error"] == pytest.approx(errors.max())


class TestPromise:
    """Below the threshold at most a fraction `risk` is wrong, with 95% confidence: in at most 1 of 20 draws of the rows it is more."""

    DRAWS = 400
    # If the promise holds exactly, more failures than this among the draws have a chance of 1 in 1,000.
    MOST_FAILURES = int(binom.ppf(0.999, DRAWS, 0.05))

    @pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
    def test_a_score_that_says_something(self, power):
        """Scores are uniform and a prediction is wrong with probability s^power: below t, a fraction t^power / (power + 1)."""
        rng, risk, failures, found = np.random.default_rng(int(power)), 0.1, 0, 0
        for _ in range(self.DRAWS):
            scores = rng.random(300)
            limit = threshold(scores, rng.random(300) < scores**power, risk)
            if limit is not None:
                found += 1
                failures += limit**power / (power + 1.0) > risk
        assert failures <= self.MOST_FAILURES
        assert found > self.DRAWS / 2 or power < 2, "a promise that is never made is easily kept"

    def test_a_score_that_says_nothing(self):
        """A few more are wrong than may be, whatever the score: any threshold at all breaks the promise, however many are tried."""
        rng = np.random.default_rng(0)
        found = sum(threshold(rng.random(300), rng.random(300) < 0.1, 0.099) is not None for _ in range(self.DRAWS))
        assert found <= self.MOST_FAILURES

    def test_a_threshold_without_the_correction_for_trying_many_would_break_it(self):
        """The largest score whose own interval passes, among all: the check above is able to fail."""
        from scipy.stats import beta

        rng, found = np.random.default_rng(0), 0
        for _ in range(self.DRAWS):
            wrong, accepted = np.cumsum(rng.random(300) < 0.1), np.arange(1, 301)
            found += bool(np.any(beta.ppf(0.95, wrong + 1, np.maximum(accepted - wrong, 1)) <= 0.099))
        assert found > self.MOST_FAILURES

    @given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.5))
    def test_on_the_rows_it_saw(self, seed, fraction):
        rng = np.random.default_rng(seed)
        scores, wrong = rng.random(60), rng.random(60) < fraction
        limit = threshold(scores, wrong, 0.2)
        if limit is not None:
            assert wrong[scores <= limit].mean() <= 0.2
            assert np.sum(scores <= limit) >= math.log(0.05) / math.log(0.8)  # fewer correct predictions than this prove nothing

    def test_too_few_rows_give_no_threshold(self):
        problems = harmonic_problems(8)
        entry = calibrate(problems, {"s": np.arange(8.0)}, problems.q, problems.p, 0.01, 0.01)["scores"]["s"]
        assert entry["threshold"] is None and entry["rank_correlation"] is None
