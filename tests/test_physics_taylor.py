"""The Taylor solver: its order, its knots and its memory of other orbits (none)."""

import numpy as np
import pytest
from well_helpers import draw

from neural_hamilton.physics import Curves
from neural_hamilton.physics.solvers import taylor

TIMES = np.linspace(0.0, 2.0, 50)


def advance(c, v, state, step, num_steps):
    """(u, p) after `num_steps` series of equal steps on one piece, with nothing cut."""
    u, p, work = np.empty(21), np.empty(21), np.empty((3, 20))
    for _ in range(num_steps):
        u[0], p[0] = state
        taylor._expand(c, v, u, p, work)
        state = taylor._state(u, p, step)
    return np.array(state)


@pytest.mark.parametrize("start", [(0.3, 0.5), (0.5, -1.0), (0.6, 0.2)])
def test_order_is_twenty(start):
    """One series leaves out the power 21 of its step."""
    potential = Curves.from_control_points([0.0, 0.15, 0.8, 1.0], [2.0, -1.0, 1.5, 2.0])
    c, v = potential.poly_q[0, 0], potential.poly_v[0, 0]
    steps = np.geomspace(0.06, 0.5, 16)
    errors = np.array([np.abs(advance(c, v, start, h, 1) - advance(c, v, start, h / 16, 16)).max() for h in steps])
    clear = (errors > 1e-12) & (errors < 1e-5)
    assert clear.sum() >= 4, errors
    assert np.polyfit(np.log(steps[clear]), np.log(errors[clear]), 1)[0] == pytest.approx(21.0, abs=1.0)


def test_a_series_that_is_not_finite_is_no_answer():
    """q'(u) = 0 at the start: the curve has a vertical tangent in u, where V is no smooth function of q."""
    poly_q, poly_v = np.array([[[0.0, 0.0, 3.0, -2.0]]]), np.array([[[2.0, -4.0, 4.0, 0.0]]])
    status = taylor.certify_orbits(poly_q, poly_v, np.array([1]), np.array([0]), np.array([0.0]), np.array([0.1]), TIMES[None], 1e-9)[-1]
    assert status[0] == taylor.NOT_CERTIFIED


def test_query_times_do_not_move_the_orbit():
    """Times are read off the series: asking for more of them, or others, changes no answer by more than rounding."""
    curves = Curves.from_control_points([0.0, 0.2, 0.5, 0.7, 1.0], [2.0, -1.0, 1.0, -0.5, 2.0])
    piece, u0 = curves.locate(np.array([0.1]))

    def solve(times):
        start = (curves.poly_q, curves.poly_v, curves.num_pieces, piece, u0, np.array([0.3]))
        return taylor.certify_orbits(*start, times[None], 1e-9)[0][0]

    few = np.array([0.0, 0.5, 0.5, 2.0])
    many = np.sort(np.concatenate([few, np.linspace(0, 2, 999)]))
    np.testing.assert_allclose(solve(few), solve(many)[np.searchsorted(many, few)], atol=1e-14, rtol=0)


def test_energy_is_kept_to_rounding():
    rows = draw("phase-space", 5, "val", np.arange(200))
    assert rows.energy_drift.max() < 1e-12
