"""Baselines of two degrees of freedom: what they rebuild from the sensors, and how well they then solve."""

import numpy as np
import pytest

from neural_hamilton.physics.systems import get_system, with_role
from neural_hamilton.platform.evaluation.metrics import measure
from neural_hamilton.platform.evaluation.problems import draw_problems

STEPS = {"surface": 0.02, "henon-heiles": 0.1, "double-pendulum": 0.1}


def problems_of(name, sensors, rows=16, noise=0.0):
    system = get_system(name)
    ensemble = next(iter(system.ensembles.values()))()
    return draw_problems(system, ensemble, ensemble, 0, rows, (sensors, sensors)).at_sensors((sensors, sensors), noise)


def losses(problems):
    system = problems.system
    found = {}
    for baseline in with_role(system.baselines([STEPS[system.name]]), "table"):
        if baseline.why_not(problems) is None:
            states = baseline.states(problems)
            found[baseline.name] = np.median(measure(problems, states.q, states.p)["total_loss"])
    return found


@pytest.mark.parametrize("name", STEPS)
def test_better_solvers_and_better_reconstructions_are_better(name):
    found = losses(problems_of(name, 24))
    assert found["dop853-oracle"] < 1e-18
    assert found["dop853-prior-fit"] < 1e-10
    assert found["dop853-prior-fit"] < found["dop853-biquintic"] < 1e-5
    if name != "henon-heiles":  # there both splines hold V exactly, and float32 is their only error
        assert 3 * found["dop853-biquintic"] < found["dop853-bicubic"] < 1e-4
    assert found["dop853-oracle"] < found[f"rk4-oracle-{STEPS[name]:g}"] < 1e-8


def test_the_fit_of_a_surface_finds_it_from_few_sensors():
    fits = {sensors: losses(problems_of("surface", sensors)) for sensors in (8, 12)}
    assert fits[12]["dop853-prior-fit"] < fits[8]["dop853-prior-fit"] / 100
    for sensors in (8, 12):
        assert fits[sensors]["dop853-prior-fit"] < fits[sensors]["dop853-bicubic"] / 5


def test_noise_is_known_to_the_fit_and_the_rim_to_the_splines():
    noisy = problems_of("surface", 12, noise=0.01)
    deaf = problems_of("surface", 12)
    found = losses(noisy)
    assert found["dop853-prior-fit"] < found["dop853-bicubic"] / 3
    assert found["dop853-prior-fit"] > 100 * losses(deaf)["dop853-prior-fit"]
    [spline] = [b.reconstruction for b in noisy.system.baselines([0.02]) if b.name == "dop853-bicubic"]
    rebuilt = noisy.rebuilt(spline).hamiltonians.sense((12, 12))["potential"]
    np.testing.assert_allclose(rebuilt[:, 0], 2.0, atol=1e-12)
    np.testing.assert_allclose(rebuilt[:, 1:-1, 1:-1], noisy.fields["potential"][:, 1:-1, 1:-1], atol=1e-12)


def test_the_fit_assumes_the_random_ensemble_and_enough_sensors():
    problems = problems_of("surface", 5)
    reasons = {b.name: b.why_not(problems) for b in problems.system.baselines([0.02])}
    assert "needs 6 sensors" in reasons["dop853-biquintic"] and reasons["dop853-bicubic"] is None is reasons["dop853-prior-fit"]
    many = problems.at_sensors((40, 40))
    assert [b.why_not(many) for b in problems.system.baselines([0.02]) if b.name == "dop853-prior-fit"] == [
        "its cost goes as the cube of 1600 sensors; it takes at most 1024"
    ]


@pytest.mark.parametrize("name", STEPS)
def test_compiled_rates_of_splines_are_their_gradients(name):
    problems = problems_of(name, 10, rows=3)
    splines = problems.system.splines(problems.fields, 5)
    y, out = problems.initial, np.empty(4)
    by_q, by_p = splines.gradient(problems.q0, problems.p0)
    for row in range(3):
        splines.flow(splines.packed[row], y[row], out)
        np.testing.assert_allclose(out, np.concatenate([by_p[row], -by_q[row]]), rtol=1e-11, atol=1e-11)


def test_certified_splines_say_where_a_particle_leaves():
    system = get_system("henon-heiles")
    flat = system.from_sensors({"potential": np.zeros((1, 8, 8))})
    q0, p0, times = np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.array([[0.5, 1.0]])
    inside = system.certify(flat, q0, p0, times, method="dop853", tolerance=1e-9)
    outside = system.certify(flat, q0, p0, times + 1.0, method="dop853", tolerance=1e-9)
    assert inside.rejection == [None] and np.allclose(inside.q[0, :, 0], times)
    assert outside.rejection[0].name == "POSITION_OUT_OF_RANGE"
