"""Compiled DOP853 takes SciPy's steps and gives SciPy's answers; its error falls with its tolerance; threads change nothing."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from well_helpers import draw, polygon

from neural_hamilton.physics import Curves, InputError
from neural_hamilton.physics import solve as solve_batch
from neural_hamilton.physics.systems.well.textbook import NAMED_POTENTIALS

HARMONIC = NAMED_POTENTIALS["harmonic"]
PARABOLA = Curves.from_samples(HARMONIC.value(np.linspace(0, 1, 9)))  # a spline through a parabola is that parabola
POTENTIAL = Curves.from_control_points([0.0, 0.15, 0.35, 0.5, 0.65, 0.8, 1.0], [2.0, 0.2, -0.4, 0.3, -0.6, 0.4, 2.0])
TIMES = np.linspace(0.4, 2.0, 5)

positions, momenta, seeds = st.floats(0.1, 0.9), st.floats(-1.0, 1.0), st.integers(0, 2**32 - 1)
tolerances = st.floats(-12.0, -4.0).map(lambda exponent: 10.0**exponent)


def solve(potential, q0, p0, times, tolerance):
    """One orbit: states (2, T) and the number of forces evaluated."""
    solution = solve_batch(potential, q0, p0, times, method="dop853", tolerance=tolerance)
    return np.stack([solution.q, solution.p]), solution.num_evaluations


def scipys(potential, q0, p0, times, tolerance):
    """The same by SciPy; nan from where it gives up."""

    def slope(_, state):
        return [state[1], -float(potential.gradient(state[0]))]

    solution = solve_ivp(slope, (0.0, times[-1]), [q0, p0], "DOP853", t_eval=times, rtol=tolerance, atol=tolerance)
    states = np.full((2, times.size), np.nan)
    if np.size(solution.y):
        states[:, : solution.y.shape[1]] = solution.y
    return states, solution.nfev


@st.composite
def splines(draw):
    n = draw(st.integers(4, 11))
    control_q = np.cumsum([0.0, *draw(st.lists(st.floats(0.05, 1.0), min_size=n - 1, max_size=n - 1))])
    control_v = draw(st.lists(st.floats(-2.0, 2.0), min_size=n, max_size=n))
    return Curves.from_control_points(control_q / control_q[-1], control_v)


class TestAgainstSciPy:
    @given(st.floats(2.0, 20.0), st.floats(-0.9, 0.9), positions, momenta, tolerances, seeds)
    def test_same_steps_and_answers_on_a_smooth_potential(self, height, skew, q0, p0, tolerance, seed):
        potential = Curves.from_samples([height * (q - 0.5) ** 2 * (1 + skew * (q - 0.5)) for q in np.linspace(0, 1, 9)])
        times = np.sort(np.random.default_rng(seed).uniform(0.0, 2.0, 8))
        ours, theirs = (by(potential, q0, p0, times, tolerance) for by in (solve, scipys))
        assert ours[1] == theirs[1]
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-9, rtol=1e-7)  # relatively: some run away

    # Step control amplifies rounding at every knot, SciPy's too: over long times and at tight tolerances the steps part.
    @given(splines(), positions, momenta, st.sampled_from([1e-5, 1e-6, 1e-7, 1e-8]), seeds)
    def test_same_steps_and_answers_across_knots(self, potential, q0, p0, tolerance, seed):
        times = np.sort(np.random.default_rng(seed).uniform(0.0, 0.15, 8))
        ours, theirs = (by(potential, q0, p0, times, tolerance) for by in (solve, scipys))
        assert ours[1] == theirs[1]
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-9)

    @pytest.mark.parametrize("tolerance", [1e-6, 1e-10])
    def test_same_cost_and_errors_over_the_horizon(self, tolerance):
        """The steps of single orbits part; over many, neither solver is better or cheaper."""
        rows = draw("phase-space", 0, "test", np.arange(40), tolerance=1e-11)
        found = []
        for row in range(40):
            orbit = (Curves.from_control_points(*polygon(rows, row)), rows.q0[row], rows.p0[row], rows.times[row], tolerance)
            for states, num_evaluations in (solve(*orbit), scipys(*orbit)):
                found.append((num_evaluations, np.log10(np.abs(states - [rows.q[row], rows.p[row]]).max())))
        ours, theirs = np.mean(found[::2], axis=0), np.mean(found[1::2], axis=0)
        assert ours[0] == pytest.approx(theirs[0], rel=0.03)
        assert ours[1] == pytest.approx(theirs[1], abs=0.3)

    @pytest.mark.parametrize("start", [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, -1e-7)])
    @pytest.mark.parametrize("end", [1e-7, 2.0])
    def test_the_first_step_from_special_starts(self, start, end):
        ours, theirs = (by(PARABOLA, *start, np.array([end]), 1e-6) for by in (solve, scipys))
        assert ours[1] == theirs[1]
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-12)

    @pytest.mark.parametrize("times", [[2.0], [0.0, 2.0], [1e-9, 1.0, 2.0], np.linspace(0, 2, 100)])
    def test_interpolants_are_made_only_where_they_are_read(self, times):
        ours, theirs = (by(PARABOLA, 0.2, 0.1, np.array(times), 1e-8) for by in (solve, scipys))
        assert ours[1] == theirs[1]
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-12)

    def test_a_tolerance_below_rounding(self):
        with pytest.warns(UserWarning, match="rtol"):
            states, _ = scipys(PARABOLA, 0.2, 0.1, TIMES, 1e-15)
        np.testing.assert_allclose(solve(PARABOLA, 0.2, 0.1, TIMES, 1e-15)[0], states, atol=1e-12)

    def test_a_runaway_ends_in_nan_at_the_same_time(self):
        """Beyond the wall V falls as -q^3, and q reaches infinity in finite time."""
        cliff = Curves.from_samples(-40.0 * np.linspace(0, 1, 9) ** 3)
        times = np.linspace(0.0, 2.0, 41)
        ours, theirs = (by(cliff, 0.5, 0.0, times, 1e-8) for by in (solve, scipys))
        assert ours[1] == theirs[1]
        assert 0 < np.isnan(ours[0][0]).argmax() < 41
        np.testing.assert_array_equal(np.isnan(ours[0]), np.isnan(theirs[0]))
        assert np.isnan(ours[0][:, np.isnan(ours[0][0]).argmax() :]).all()


def test_error_falls_with_the_tolerance():
    truth = np.array(HARMONIC.truth(TIMES))
    found = [np.abs(solve(PARABOLA, 0.0, 0.0, TIMES, 10.0**-k)[0] - truth).max() for k in (4, 6, 8, 10, 12)]
    assert all(fine < coarse / 10 for coarse, fine in pairwise(found))
    assert found[0] < 1e-2 and found[-1] < 1e-10


def test_tolerances_are_paid_for():
    costs = [solve(PARABOLA, 0.0, 0.0, TIMES, 10.0**-k)[1] for k in (4, 6, 8, 10, 12)]
    assert costs == sorted(set(costs))


@settings(max_examples=20)
@given(st.sampled_from([PARABOLA, POTENTIAL]), positions, momenta, seeds)
def test_query_times_do_not_move_the_orbit(potential, q0, p0, seed):
    few = np.array([0.0, 0.5, 0.5, 2.0])
    many = np.sort(np.concatenate([few, np.random.default_rng(seed).uniform(0, 2, 50)]))
    np.testing.assert_array_equal(
        solve(potential, q0, p0, few, 1e-8)[0], solve(potential, q0, p0, many, 1e-8)[0][:, np.searchsorted(many, few)]
    )


@pytest.mark.parametrize("start", [(np.nan, 0.0), (0.5, np.inf), (1e200, 0.0), (0.5, 1e30)])
def test_wild_starts_come_to_an_end(start):
    states, _ = solve(POTENTIAL, *start, np.array([0.0, 1.0]), 1e-8)
    np.testing.assert_array_equal(states[:, 0], start)
    assert np.isnan(states[:, 1]).all()


def test_times_may_start_at_zero_and_repeat():
    states, _ = solve(POTENTIAL, 0.3, 0.2, np.array([0.0, 0.0, 1.0, 1.0]), 1e-10)
    np.testing.assert_array_equal(states[:, :2].T, [(0.3, 0.2)] * 2)
    np.testing.assert_array_equal(states[:, 2], states[:, 3])


def test_time_zero_costs_nothing():
    states, num_evaluations = solve(POTENTIAL, 0.3, 0.2, np.zeros(1), 1e-10)
    np.testing.assert_array_equal(states[:, 0], (0.3, 0.2))
    assert num_evaluations == 0


class TestBatch:
    rng = np.random.default_rng(0)
    # Curves of different lengths, a long spline among them: more orbits than a thread takes at a time.
    curves = Curves.join([POTENTIAL, PARABOLA, Curves.from_samples(POTENTIAL.value(np.linspace(0, 1, 50)))] * 60)
    q0, p0 = rng.uniform(0.1, 0.9, 180), rng.uniform(-1, 1, 180)
    times = np.sort(rng.uniform(0, 2, (180, 7)), axis=1)

    def test_row_by_row_is_the_same(self):
        batch = solve_batch(self.curves, self.q0, self.p0, self.times, tolerance=1e-7, num_threads=2)
        for b in range(180):
            states, num_evaluations = solve(self.curves[b], self.q0[b], self.p0[b], self.times[b], 1e-7)
            np.testing.assert_array_equal([batch.q[b], batch.p[b]], states)
            assert batch.num_evaluations[b] == num_evaluations

    def test_threads_change_nothing(self):
        answers = [solve_batch(self.curves, self.q0, self.p0, self.times, tolerance=1e-7, num_threads=n) for n in (1, 2, 3, None)]
        for answer in answers[1:]:
            for part, first in zip(answer, answers[0], strict=True):
                np.testing.assert_array_equal(part, first)

    def test_one_curve_and_one_list_of_times_serve_all(self):
        shared = solve_batch(POTENTIAL, self.q0, self.p0, TIMES, tolerance=1e-7)
        repeated = solve_batch(Curves.join([POTENTIAL] * 180), self.q0, self.p0, np.tile(TIMES, (180, 1)), tolerance=1e-7)
        for part, other in zip(shared, repeated, strict=True):
            np.testing.assert_array_equal(part, other)

    @pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
    def test_none_is_none(self, shape):
        solution = solve_batch(POTENTIAL, np.zeros(shape[0]), np.zeros(shape[0]), TIMES[: shape[1]], tolerance=1e-7)
        assert solution.q.shape == solution.p.shape == shape
        assert not solution.num_evaluations.any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"q0": np.zeros(3)}, "q0 and p0 have shapes"),
            ({"q0": np.zeros((2, 2)), "p0": np.zeros((2, 2))}, "q0 and p0 have shapes"),
            ({"curves": Curves.join([POTENTIAL] * 3)}, "curves are 3, orbits 2"),
            ({"times": np.zeros((3, 4))}, r"times have shape \(3, 4\)"),
            ({"times": np.array([1.0, 0.5])}, "sorted"),
            ({"times": np.array([1.0, np.nan])}, "sorted"),
            ({"times": np.array([-1.0, 1.0])}, "negative"),
            ({"tolerance": 0.0}, "tolerance is 0.0"),
            ({"tolerance": -1e-6}, "tolerance is -1e-06"),
            ({"tolerance": float("nan")}, "tolerance is nan"),
            ({"tolerance": float("inf")}, "tolerance is inf"),
        ],
    )
    def test_bad_requests_are_refused(self, change, message):
        request = {
            "curves": Curves.join([POTENTIAL, POTENTIAL]),
            "q0": np.zeros(2),
            "p0": np.zeros(2),
            "times": TIMES,
            "tolerance": 1e-6,
        } | change
        with pytest.raises(InputError, match=message):
            solve_batch(request.pop("curves"), request.pop("q0"), request.pop("p0"), request.pop("times"), **request)
