"""Random wells that are not smooth, and their exact motion."""

import numpy as np
import pytest
from scipy.special import beta

from neural_hamilton.physics.solvers.solve import solve
from neural_hamilton.physics.systems import get_system

WELL = get_system("well")
TIMES = np.linspace(0.0, 2.0, 41)
STARTS = {"from the wall": ((0.0,), (0.0,)), "from anywhere": None}
KINDS = ("cusps", "kinks", "plateaus", "steps", "finite walls")


@pytest.fixture(scope="module", params=STARTS)
def drawn(request):
    return WELL.shapes(STARTS[request.param], 30, seed=0)


def test_a_seed_gives_the_same_problems(drawn):
    fixed = np.all(drawn["kinks"].q0 == 0.0)
    again, others = (WELL.shapes(((0.0,), (0.0,)) if fixed else None, 3, seed) for seed in (0, 1))
    for kind in KINDS:
        fields = [shapes[kind].hamiltonians.sense((50,))["potential"][:3] for shapes in (drawn, again, others)]
        assert np.array_equal(fields[0], fields[1]) and not np.array_equal(fields[0], fields[2])


@pytest.mark.parametrize("kind", KINDS)
class TestMotion:
    def test_keeps_its_energy_between_the_walls(self, drawn, kind):
        hamiltonians, q0, p0, truth = drawn[kind]
        q, p = truth(TIMES)
        energy = hamiltonians.energy(q0, p0)
        assert np.abs(hamiltonians.energy(q, p) - energy[:, None]).max() < 1e-12
        assert q.min() >= 0.0 and q.max() <= 1.0 and np.ptp(q, axis=1).min() > 1e-3

    def test_can_be_reversed(self, drawn, kind):
        """From the end with the opposite momentum the particle goes back to where it began."""
        potentials, (q, p) = drawn[kind].hamiltonians.potentials, drawn[kind].truth(TIMES)
        for row, potential in enumerate(potentials):
            if abs(p[row, -1]) < 1e-3:  # so near a turning point that rounding decides on which side of it the particle is
                continue
            back_q, back_p = potential.truth(TIMES[-1] - TIMES, q[row, -1], -p[row, -1])
            np.testing.assert_allclose(back_q, q[row], atol=1e-7)
            jumps = np.abs(back_p + p[row]) > 1e-5  # a query time within rounding of a jump may fall on either side of it
            assert jumps.sum() <= (1 if kind in ("steps", "finite walls") else 0)

    def test_wells_have_walls_of_height_two(self, drawn, kind):
        fields = drawn[kind].hamiltonians.sense((100,))["potential"]
        np.testing.assert_allclose(fields[:, [0, -1]], 2.0, atol=1e-12)
        assert np.all(fields.min(axis=1) < 1.9)


def test_the_bottom_of_a_cusp_is_reached_when_the_beta_function_says():
    """From rest at the wall, after B(1/a, 1/2) w / (a sqrt(2 depth)), w the distance and a the exponent."""
    hamiltonians, _, _, truth = WELL.shapes(((0.0,), (0.0,)), 20, seed=1)["cusps"]
    cusps = [potential.value.__self__ for potential in hamiltonians.potentials]
    for row, cusp in enumerate(cusps):
        duration = cusp.middle * beta(1.0 / cusp.exponent, 0.5) / cusp.exponent / np.sqrt(2.0 * (2.0 - cusp.bottom))
        q, p = truth(np.array([duration]))
        assert q[row, 0] == pytest.approx(cusp.middle, abs=1e-12)
        assert p[row, 0] == pytest.approx(np.sqrt(2.0 * (2.0 - cusp.bottom)), rel=1e-5)  # at the cusp p changes at once


@pytest.mark.parametrize("kind", ["kinks", "plateaus"])
def test_motion_agrees_with_a_fine_solver(drawn, kind):
    """Small steps in the exact potential cross each kink with an error of their length."""
    hamiltonians, q0, p0, truth = drawn[kind]
    q, _ = truth(TIMES)
    for row in range(3):
        fine = solve(hamiltonians.potentials[row], q0[row], p0[row], TIMES, method="yoshida4", step=1e-4)
        assert np.abs(fine.q - q[row]).max() < 0.02


def test_half_of_the_finite_walls_turn_the_particle_back(drawn):
    hamiltonians, _, _, truth = drawn["finite walls"]
    q, _ = truth(np.linspace(0.0, 2.0, 401))
    reflected = 0
    for potential, path in zip(hamiltonians.potentials, q, strict=True):
        edges = np.array(potential.breakpoints)
        wall = int(np.argmax(potential.value(0.5 * (edges[:-1] + edges[1:]))))
        if potential.value(0.5 * (edges[wall] + edges[wall + 1])) > 2.0:
            reflected += 1
            assert not np.any((path > edges[wall] + 1e-9) & (path < edges[wall + 1] - 1e-9))
    assert 5 < reflected < 25
