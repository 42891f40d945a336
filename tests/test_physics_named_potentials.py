"""Textbook potentials and families: walls, slopes, closed forms against quadrature, kinks and jumps by hand."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.physics import InputError, solve
from neural_hamilton.physics.systems.well.textbook import NAMED_POTENTIALS, piecewise_linear, power_law, steps

TIMES = np.linspace(0.0, 2.0, 101)
ZIGZAG = piecewise_linear([(0, 2), (0.2, 0.5), (0.45, 1.2), (0.7, -0.5), (0.9, 0.3), (1, 2)])
EXPONENTS = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
ALL = {p.name: p for p in (*NAMED_POTENTIALS.values(), *map(power_law, EXPONENTS), ZIGZAG)}
STARTS = [(0.0, 0.0), (0.3, 0.5), (0.3, -0.5), (0.8, 0.4), (0.8, -0.4), (0.1, 0.0), (0.5, 0.7), (0.5, -0.2)]


@pytest.fixture(params=ALL)
def potential(request):
    return ALL[request.param]


def test_the_seven_of_the_paper():
    assert list(NAMED_POTENTIALS) == [
        "harmonic", "double-well", "morse", "pendulum", "mirrored-free-fall", "softened", "asymmetric-triangular",
    ]  # fmt: skip
    assert all(NAMED_POTENTIALS[name].name == name for name in NAMED_POTENTIALS)


def test_walls_are_two_high(potential):
    np.testing.assert_allclose(potential.value(np.array([0.0, 1.0])), 2.0, atol=1e-13)


def test_gradient_is_the_slope(potential):
    q, h = np.random.default_rng(0).uniform(0.0, 1.0, 200), 1e-6
    q = q[[min((abs(kink - x) for kink in potential.breakpoints), default=1.0) > 1e-2 for x in q]]
    slope = (potential.value(q + h) - potential.value(q - h)) / (2 * h)
    np.testing.assert_allclose(potential.gradient(q), slope, atol=1e-7, rtol=1e-6)


def test_smooth_but_at_the_breakpoints(potential):
    q = np.linspace(0.0, 1.0, 100_001)
    jumps = np.abs(np.diff(potential.gradient(q))) > 0.1
    away = np.all([np.abs(q[1:] - kink) > 2e-2 for kink in potential.breakpoints], axis=0) if potential.breakpoints else True
    assert not np.any(jumps & away)


def test_the_particle_stays_inside(potential):
    assert potential.value(np.linspace(0.0, 1.0, 1001)[1:-1]).max() < 2.0


def test_truth_starts_at_rest_and_conserves_energy(potential):
    q, p = potential.truth(TIMES)
    assert abs(q[0]) < 1e-14 and abs(p[0]) < 1e-14
    assert np.abs(0.5 * p**2 + potential.value(q) - 2.0).max() < (1e-6 if potential.name == "power-law-0.5" else 1e-11)


@pytest.mark.parametrize("start", STARTS)
def test_closed_forms_and_events_agree_with_quadrature(potential, start):
    if potential.motion is None:
        pytest.skip("its truth is the quadrature")
    times = np.array([[0.0, 0.3], [1.7, 0.9], [2.0, 7.3]])  # any shape, any order, many periods
    q, p = (states.ravel() for states in potential.truth(times, *start))
    reference_q, reference_p = solve(potential, *start, times.ravel(), method="quadrature")[:2]
    # On a cusp the force is infinite, and rounding of t shows in p as its root.
    cusp = potential.name in ("power-law-0.5", "power-law-0.75")
    np.testing.assert_allclose(q, reference_q, atol=2e-12)
    np.testing.assert_allclose(p, reference_p, atol=1e-4 if cusp else 2e-12)


@pytest.mark.parametrize("name", ["harmonic", "double-well", "morse", "pendulum", "softened", "power-law-2", "power-law-4"])
@pytest.mark.parametrize("start", [(0.0, 0.0), (0.3, 0.9), (0.7, -0.5)])
def test_truth_agrees_with_a_time_stepper_where_smooth(name, start):
    np.testing.assert_allclose(ALL[name].truth(TIMES, *start), solve(ALL[name], *start, TIMES, tolerance=1e-13)[:2], atol=2e-12)


@given(st.sampled_from(["double-well", "morse", "pendulum", "power-law-1.5", "power-law-4"]), st.floats(0, 1), st.floats(-1, 1))
def test_closed_forms_start_where_they_should_and_conserve_energy(name, q0, share):
    potential = ALL[name]
    p0 = share * np.sqrt(2 * max(0.0, 2.0 - float(potential.value(np.array(q0)))))
    try:
        q, p = potential.truth(TIMES, q0, p0)
    except InputError as refusal:
        assert name == "double-well" and "barrier" in str(refusal)
        return
    energy = 0.5 * p0 * p0 + float(potential.value(np.array(q0)))
    assert abs(q[0] - q0) < 1e-13 and abs(p[0] - p0) < 1e-12
    assert np.abs(0.5 * p**2 + potential.value(q) - energy).max() < 1e-12


@pytest.mark.parametrize("name", ["double-well", "morse", "pendulum", "power-law-1.5", "power-law-3"])
def test_small_orbits_lose_no_digits(name):
    """Tiny swings about the bottom, where formulas tend to cancel: the state relative to the size of the swing."""
    rest = {"double-well": 0.2, "morse": 1 / 3}.get(name, 0.5)
    size = 1e-5
    x, p = ALL[name].truth(np.array([0.0]), rest + size, 0.0)
    assert abs(x[0] - rest - size) < 1e-14 and abs(p[0]) < 1e-13


def test_period_of_power_laws_against_high_precision():
    for exponent in EXPONENTS:
        with mpmath.workdps(30):
            # From the wall to the bottom by t = integral of dq / p, in y = V / E, by mpmath's own quadrature.
            a = mpmath.mpf(1) / mpmath.mpf(exponent)
            quarter = mpmath.quad(lambda s, a=a: 2 * a / 4 * s ** (2 * a - 1) / mpmath.sqrt(1 - s * s), [0, 0.5, 1])
        q, _ = power_law(exponent).truth(np.array([float(quarter), 2 * float(quarter), 4 * float(quarter)]))
        np.testing.assert_allclose(q, [0.5, 1.0, 0.0], atol=1e-12)


def test_harmonic_and_free_fall_are_power_laws():
    for exponent, name in ((2.0, "harmonic"), (1.0, "mirrored-free-fall")):
        np.testing.assert_allclose(power_law(exponent).truth(TIMES, 0.2, 0.3), NAMED_POTENTIALS[name].truth(TIMES, 0.2, 0.3), atol=1e-13)


@pytest.mark.parametrize(("name", "kink"), [("mirrored-free-fall", 0.5), ("asymmetric-triangular", 0.25)])
def test_triangles_are_two_parabolas_there_and_back(name, kink):
    phase = np.mod(TIMES, 2.0)
    way = np.where(phase < 1.0, phase, 2.0 - phase)  # the way back is the same, reversed
    falling = way < kink
    q = np.where(falling, way**2 / kink, 1.0 - (1.0 - way) ** 2 / (1.0 - kink))
    speed = np.where(falling, 2.0 * way / kink, 2.0 * (1.0 - way) / (1.0 - kink))
    np.testing.assert_allclose(NAMED_POTENTIALS[name].truth(TIMES), [q, np.where(phase < 1.0, speed, -speed)], atol=1e-14)


def test_errors_do_not_add_up_over_many_events():
    q, p = NAMED_POTENTIALS["mirrored-free-fall"].truth(np.array([20_000.0, 20_000.25]))
    np.testing.assert_allclose([q, p], [[0.0, 0.125], [0.0, 1.0]], atol=1e-9)


class TestPiecewiseLinear:
    @given(
        st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(-2.0, 1.9)), min_size=1, max_size=6),
        st.floats(0.01, 0.99),
        st.floats(-1.5, 1.5),
    )
    def test_conserves_energy_and_reverses(self, inner, q0, p0):
        inner = sorted({round(q, 2): v for q, v in inner}.items())
        potential = piecewise_linear([(0, 2), *inner, (1, 2)])
        energy = 0.5 * p0 * p0 + float(potential.value(q0))
        if any(abs(energy - v) < 1e-3 for _, v in inner):
            return
        q, p = potential.truth(TIMES, q0, p0)
        assert np.abs(0.5 * p**2 + potential.value(q) - energy).max() < 1e-12
        back = potential.truth(np.array([2.0]), float(q[-1]), -float(p[-1]))
        np.testing.assert_allclose([back[0][0], back[1][0]], [q0, -p0], atol=1e-9)

    def test_rests_in_a_kink(self):
        q, p = NAMED_POTENTIALS["mirrored-free-fall"].truth(TIMES, 0.5, 0.0)
        assert np.all(q == 0.5) and not p.any()

    def test_level_ground(self):
        flat = piecewise_linear([(0, 2), (0.25, 1), (0.75, 1), (1, 2)])
        q, p = flat.truth(np.array([0.0, 0.2, 0.25, 0.5]), 0.5, 1.0)
        # Level at speed 1 for 0.25, then a slope of 4 that takes it to rest in another 0.25.
        np.testing.assert_allclose([q, p], [[0.5, 0.7, 0.75, 0.875], [1.0, 1.0, 1.0, 0.0]], atol=1e-15)
        np.testing.assert_allclose(flat.truth(TIMES, 0.4, 0.0), [np.full(101, 0.4), np.zeros(101)])
        np.testing.assert_allclose(flat.truth(TIMES, 0.25, 0.0), [np.full(101, 0.25), np.zeros(101)])

    def test_the_top_of_a_kink_is_refused(self):
        roof = piecewise_linear([(0, 2), (0.25, 0), (0.5, 1), (0.75, 0), (1, 2)])
        with pytest.raises(InputError, match=r"starts at rest on the top of the kink at q = 0\.5"):
            roof.truth(TIMES, 0.5, 0.0)
        with pytest.raises(InputError, match=r"comes to rest on the top of the kink at q = 0\.5"):
            roof.truth(TIMES, 0.375, 1.0)

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            ([(0, 2), (1, 2)], "at least 3"),
            ([(0, 2), (0.6, 0), (0.5, 1), (1, 2)], "ascending order of q"),
            ([(0, 2), (0.5, 0), (0.5, 1), (0.5, 0), (1, 2)], "not three"),
            ([(0, 2), (0, 1), (0.5, 0), (1, 2)], "nor at a wall"),
            ([(0, 2), (0.5, np.nan), (1, 2)], "finite"),
            ([(0, 1), (0.5, 0), (1, 2)], r"must run from \(0, 2\)"),
        ],
    )
    def test_bad_points_are_refused(self, points, message):
        with pytest.raises(InputError, match=message):
            piecewise_linear(points)


class TestSteps:
    def test_a_step_down_by_hand(self):
        """From (0.2, 1) with V = 1: the edge at 0.5 after 0.3, there p = sqrt(3); the wall, too high, after 0.5 / sqrt(3)."""
        potential = steps([0.5], [1.0, 0.0])
        fast = np.sqrt(3.0)
        wall = 0.3 + 0.5 / fast
        q, p = potential.truth(np.array([0.1, 0.4, wall + 0.1, wall + 0.5 / fast + 0.2]), 0.2, 1.0)
        np.testing.assert_allclose(q, [0.3, 0.5 + 0.1 * fast, 1.0 - 0.1 * fast, 0.3], atol=1e-15)
        np.testing.assert_allclose(p, [1.0, fast, -fast, -1.0], atol=1e-15)

    def test_a_step_too_high_reflects(self):
        q, p = steps([0.5], [0.0, 1.0]).truth(np.array([0.3, 0.4]), 0.2, 1.0)
        np.testing.assert_allclose([q, p], [[0.5, 0.4], [-1.0, -1.0]], atol=1e-15)

    def test_just_enough_energy_is_reflected_and_a_little_more_passes(self):
        potential = steps([0.5], [0.0, 0.5])
        assert potential.truth(np.array([0.4]), 0.2, 1.0)[1][0] == -1.0
        assert potential.truth(np.array([0.4]), 0.2, 1.001)[1][0] == pytest.approx(np.sqrt(1.001**2 - 1.0))

    def test_more_than_the_walls_escapes(self):
        q, p = steps([], [0.0]).truth(np.array([2.0]), 0.5, 2.5)
        assert p[0] == pytest.approx(1.5) and q[0] == pytest.approx(1.0 + 1.5 * (2.0 - 0.2))

    def test_rest_is_rest(self):
        for q0 in (0.0, 0.3, 0.5, 1.0):
            q, p = steps([0.5], [1.0, 0.0]).truth(TIMES, q0, 0.0)
            assert np.all(q == q0) and not p.any()

    def test_values_and_walls(self):
        potential = steps([0.25, 0.5], [1.0, 0.0, 0.5])
        np.testing.assert_array_equal(potential.value(np.array([0.0, 0.1, 0.25, 0.4, 0.5, 0.9, 1.0])), [2, 1, 0, 0, 0.5, 0.5, 2])
        assert not potential.gradient(np.linspace(0, 1, 9)).any()

    @given(st.lists(st.floats(-2, 1.9), min_size=1, max_size=6), st.floats(0.01, 0.99), st.floats(-3, 3))
    def test_conserves_energy_and_reverses(self, heights, q0, p0):
        potential = steps([*(np.arange(1, len(heights)) / len(heights))], heights)
        energy = 0.5 * p0 * p0 + float(potential.value(q0))
        q, p = potential.truth(np.array([0.77]), q0, p0)
        nearest = min(abs(x - edge) for x in (q[0], q0) for edge in potential.breakpoints)
        if nearest < 1e-6 or min(abs(energy - v) for v in (*heights, 2.0)) < 1e-6:
            return
        assert 0.5 * p[0] ** 2 + potential.value(q[0]) == pytest.approx(energy, abs=1e-12)
        back = potential.truth(np.array([0.77]), float(q[0]), -float(p[0]))
        np.testing.assert_allclose([back[0][0], back[1][0]], [q0, -p0], atol=1e-8)

    @pytest.mark.parametrize(
        ("edges", "heights", "message"),
        [
            ([0.0], [0, 1], "edges"),
            ([0.5, 0.5], [0, 1, 0], "edges"),
            ([np.nan], [0, 1], "edges"),
            ([0.5], [0], "2 finite numbers"),
            ([], [np.inf], "1 finite"),
        ],
    )
    def test_bad_steps_are_refused(self, edges, heights, message):
        with pytest.raises(InputError, match=message):
            steps(edges, heights)


@pytest.mark.parametrize("exponent", [0.0, -1.0, 33.0, float("nan")])
def test_bad_exponents_are_refused(exponent):
    with pytest.raises(InputError, match="exponent is"):
        power_law(exponent)


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("morse", (0.5, 3.5), "binds below"),
        ("pendulum", (0.5, 4.0), "in closed form below 8"),
        ("double-well", (0.2, float(np.sqrt(2 * 625 / 8 * 0.3**4))), "that of the barrier"),
        ("softened", (0.5, 2.5), "leaves its domain"),
    ],
)
def test_orbits_without_a_known_motion_are_refused(name, start, message):
    with pytest.raises(InputError, match=message):
        ALL[name].truth(TIMES, *start)


def test_a_tiny_orbit_about_a_kink_is_refused_rather_than_followed_for_ever():
    with pytest.raises(InputError, match="more than 100000 kinks"):
        NAMED_POTENTIALS["mirrored-free-fall"].truth(TIMES, 0.5, 1e-9)


def test_negative_times_are_refused_by_events():
    with pytest.raises(InputError, match="negative"):
        ZIGZAG.truth(np.array([-1.0]))
