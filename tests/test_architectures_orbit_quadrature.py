"""The orbit by quadrature against exact motion, and its slopes by V between the sensors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from well_helpers import draw

from neural_hamilton.architectures import Task
from neural_hamilton.architectures.layers.orbit_quadrature import AngleFeatures, OrbitFinder, fine, passage_time, quadrature_orbit
from neural_hamilton.physics import InputError

SENSORS = np.linspace(0.0, 1.0, 100)


def task_with(num_sensors, domain=(0.0, 1.0)):
    return Task(sensors=(num_sensors,), domain=(domain,), horizon=2.0)


def find(values, q0, p0, num_sensors=100):
    finder = OrbitFinder(task_with(num_sensors)).double()
    return finder(torch.as_tensor(values)[None].double(), torch.tensor([[q0, p0]], dtype=torch.float64))


def folded(angle):
    """An angle of the motion as one on the way to the right, in [0, pi]: position is an even function of it."""
    return np.abs((np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi)


class TestHarmonic:
    """V = 8 (q - 1/2)^2: q = 1/2 - A cos(angle), rate 4."""

    @given(st.floats(0.05, 0.45), st.floats(0.1, 3.0), st.sampled_from([-1.0, 1.0]))
    def test_start_and_rate(self, amplitude, phase, direction):
        q0, p0 = 0.5 - amplitude * math.cos(phase), direction * 4.0 * amplitude * math.sin(phase)
        orbit = find(8 * (SENSORS - 0.5) ** 2, q0, p0)
        # The error is that of straight pieces an eighth of a sensor's gap wide, largest for small orbits.
        assert float(orbit.rate) == pytest.approx(4.0, abs=2e-3 / amplitude)
        assert float(orbit.start) == pytest.approx(direction * phase, abs=0.01 + 2e-3 / amplitude)

    def test_angles_and_speeds_of_the_sensors(self):
        orbit = find(8 * (SENSORS - 0.5) ** 2, 0.2, 0.0)
        inside = np.abs(SENSORS - 0.5) < 0.3
        np.testing.assert_allclose(orbit.angle[0, inside], np.arccos((0.5 - SENSORS[inside]) / 0.3), atol=0.01)
        np.testing.assert_allclose(orbit.speed[0, inside], 4 * np.sqrt(0.09 - (SENSORS[inside] - 0.5) ** 2), atol=1e-4)
        assert torch.all(orbit.speed[0, ~inside] == 0)
        assert torch.all(orbit.angle[0, SENSORS < 0.19] == 0) and torch.allclose(
            orbit.angle[0, SENSORS > 0.81], torch.tensor(math.pi).double()
        )

    @given(st.floats(0.05, 0.45), st.floats(0.0, 6.2), st.floats(0.0, 10.0))
    def test_state(self, amplitude, phase, time):
        q0, p0 = 0.5 - amplitude * math.cos(phase), 4.0 * amplitude * math.sin(phase)
        q, p = find(8 * (SENSORS - 0.5) ** 2, q0, p0).state_at(torch.tensor([[time]], dtype=torch.float64))[0, 0].tolist()
        turned = phase + 4.0 * time
        # The period is a little wrong, and time makes that more; near a turning point the cell's force is that of its middle.
        assert q == pytest.approx(0.5 - amplitude * math.cos(turned), abs=2e-3 + 1e-3 * time)
        assert p == pytest.approx(4.0 * amplitude * math.sin(turned), abs=8e-3 + 4e-3 * time)


class TestWells:
    def test_the_other_well_is_not_of_this_orbit(self):
        values = 625 / 8 * (SENSORS - 0.2) ** 2 * (SENSORS - 0.8) ** 2
        left, right = find(values, 0.25, 0.0), find(values, 0.75, 0.0)
        assert float(left.rate) == pytest.approx(float(right.rate), rel=1e-6)
        assert torch.all(left.angle[0, SENSORS > 0.5] == left.angle[0, -1]) and torch.all(right.angle[0, SENSORS < 0.5] == 0)

    def test_at_rest_on_the_bottom(self):
        orbit = find(8 * (SENSORS - 0.5) ** 2, 0.5, 0.0)
        assert all(torch.isfinite(part).all() for part in orbit if torch.is_tensor(part))
        state = orbit.state_at(torch.linspace(0, 2, 9).double()[None])
        torch.testing.assert_close(state, torch.tensor([0.5, 0.0]).double().expand_as(state), atol=2e-3, rtol=0)

    @pytest.mark.parametrize("place", [0.0, 1.0])
    def test_at_rest_in_a_corner(self, place):
        """Where V falls to a wall and the particle is at rest there: the least and the last cell of the grid."""
        orbit = find(2 * np.abs(SENSORS - place), place, 0.0)
        state = orbit.state_at(torch.linspace(0, 2, 9).double()[None])
        torch.testing.assert_close(state, torch.tensor([place, 0.0]).double().expand_as(state), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("preset", "typical"), [("paper", 1e-3), ("phase-space", 2e-4)])
def test_what_is_read_off_is_nearly_right(preset, typical):
    """On random potentials, without a network: q and p to a thousandth, and q by straight lines between the sensors' angles."""
    rows = draw(preset, 0, "val", np.arange(200))
    potential = torch.tensor(rows.hamiltonians.curves.sample(SENSORS), dtype=torch.float32)
    times = torch.tensor(rows.times, dtype=torch.float32)
    orbit = OrbitFinder(task_with(100))(potential, torch.tensor(np.stack([rows.q0, rows.p0], axis=1), dtype=torch.float32))
    angles = folded(orbit.angle_at(times).numpy())
    by_lines = np.stack([np.interp(angles[i], orbit.angle[i].numpy(), SENSORS) for i in range(len(rows))])
    errors = np.sqrt(np.mean((by_lines - rows.q) ** 2, axis=1))
    assert np.median(errors) < 1e-3 and np.max(errors) < 2e-2
    q, p = orbit.state_at(times).double().numpy().transpose(2, 0, 1)
    losses = 0.5 * np.mean((q - rows.q) ** 2 + (p - rows.p) ** 2, axis=1)
    assert np.median(losses) < typical**2 and np.max(losses) < 2e-2**2


@given(st.integers(0, 199), st.floats(0.0, 2.0))
def test_states_conserve_the_energy_of_the_cells_and_come_back_after_a_period(row, time):
    rows = draw("phase-space", 0, "val", np.array([row]))
    orbit = find(rows.hamiltonians.curves.sample(SENSORS)[0], rows.q0[0], rows.p0[0])
    period = float(2.0 * math.pi / orbit.rate)
    (q, p), later = orbit.state_at(torch.tensor([[time, time + period]], dtype=torch.float64))[0].tolist()
    assert later == pytest.approx([q, p], abs=1e-7)
    place = q * (orbit.kinetic.shape[1] - 1)
    assert p**2 == pytest.approx(np.interp(place, np.arange(orbit.kinetic.shape[1]), orbit.kinetic[0].numpy()), abs=1e-9)


def test_an_orbit_begins_at_its_start():
    rows = draw("phase-space", 0, "val", np.arange(200))
    start = torch.tensor(np.stack([rows.q0, rows.p0], axis=1))
    orbit = OrbitFinder(task_with(100)).double()(torch.tensor(rows.hamiltonians.curves.sample(SENSORS)), start)
    torch.testing.assert_close(orbit.state_at(torch.zeros(len(rows), 1).double())[:, 0], start, atol=1e-9, rtol=0)


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0))
def test_passage_time_is_the_integral(left, right):
    """2 (speed - speed') / slope for motion at constant force, whichever ends can be reached."""
    found = float(passage_time(torch.tensor(left, dtype=torch.float64), torch.tensor(right, dtype=torch.float64), 0.1))
    if max(left, right) <= 0:
        assert found == 0.0
        return
    if min(left, right) == max(left, right) or abs(left - right) < 1e-6:
        return
    exact = 0.1 * 2.0 * abs(math.sqrt(max(left, 0)) - math.sqrt(max(right, 0))) / abs(left - right)
    assert found == pytest.approx(exact, rel=1e-6, abs=1e-9)


def test_angle_features_are_even_and_odd():
    features = AngleFeatures(3)
    angle = torch.tensor([0.3, 2.0])
    np.testing.assert_allclose(features(angle)[:, :3], np.cos(np.outer([0.3, 2.0], [1, 2, 3])), rtol=1e-5)
    torch.testing.assert_close(features(-angle)[:, 3:], -features(angle)[:, 3:])


class TestCorrected:
    """V is corrected between the sensors, and the orbit follows."""

    @pytest.mark.parametrize("num_sensors", [13, 25])
    def test_with_the_right_v_between_the_sensors_few_are_enough(self, num_sensors):
        rows = draw("paper", 0, "val", np.arange(100))
        sensors = np.linspace(0.0, 1.0, num_sensors)
        finder = OrbitFinder(task_with(num_sensors)).double()
        potential = torch.tensor(rows.hamiltonians.curves.sample(sensors))
        start, times = torch.tensor(np.stack([rows.q0, rows.p0], axis=1)), torch.tensor(rows.times)
        grid = np.linspace(0.0, 1.0, fine(num_sensors).cells * (num_sensors - 1) + 1)
        missing = torch.tensor(rows.hamiltonians.curves.sample(grid)) - finder.refine(potential)
        losses = []
        for correction in (None, missing):
            q, p = finder(potential, start, correction).state_at(times).numpy().transpose(2, 0, 1)
            losses.append(0.5 * np.mean((q - rows.q) ** 2 + (p - rows.p) ** 2, axis=1).mean())
        assert losses[0] > 5e-5 and losses[1] < 1e-8

    @pytest.mark.parametrize(("row", "p0"), [(0, 0.0), (1, 0.0), (2, 0.7), (3, -0.4)])
    def test_slopes_are_those_of_differences(self, row, p0):
        """Of q and p with respect to V between the sensors, at a start on a wall as elsewhere."""
        rows = draw("paper", 0, "val", np.array([row]))
        finder, cells = OrbitFinder(task_with(100)).double(), fine(100).cells
        potential, times = torch.tensor(rows.hamiltonians.curves.sample(SENSORS)), torch.linspace(0.05, 2.0, 40).double()[None]
        start = torch.tensor([[0.0 if p0 == 0.0 else 0.5, p0]]).double()
        x = torch.arange(cells) / cells
        bump = (torch.rand(99, 1, generator=torch.Generator().manual_seed(row)) * x * (1 - x)).double().flatten()
        bump = torch.cat([bump, bump.new_zeros(1)])
        size = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def states(size):
            return finder(potential, start, size * bump[None]).state_at(times)[0]

        slope = torch.autograd.functional.jacobian(states, size)
        by_differences = (states(torch.tensor(1e-5)) - states(torch.tensor(-1e-5))) / 2e-5
        torch.testing.assert_close(slope, by_differences, atol=2e-3 * float(by_differences.abs().max()), rtol=0)

    @pytest.mark.parametrize(("q0", "p0"), [(0.5, 0.0), (0.0, 0.0), (1.0, 0.0), (0.25, 0.0), (0.3, -0.5)])
    def test_slopes_are_finite(self, q0, p0):
        """At rest on the bottom, at a wall, on a sensor's slope; V flat in places, rising inward from no wall."""
        values = torch.tensor(np.maximum(8 * (SENSORS - 0.5) ** 2, 0.3), dtype=torch.float32)[None]
        correction = torch.zeros(1, 99 * fine(100).cells + 1, requires_grad=True)
        OrbitFinder(task_with(100))(values, torch.tensor([[q0, p0]]), correction).state_at(torch.linspace(0, 2, 33)[None]).sum().backward()
        assert torch.isfinite(correction.grad).all()


@pytest.mark.parametrize("domain", [(-1.0, 1.0), (0.0, 3.0), (2.0, 2.5)])
def test_a_domain_is_a_change_of_units(domain):
    """With q = left + length x and time in units of the length, the motion is that on [0, 1]."""
    left, length = domain[0], domain[1] - domain[0]
    rows = draw("phase-space", 0, "val", np.arange(20))
    potential, times = torch.tensor(rows.hamiltonians.curves.sample(SENSORS)), torch.tensor(rows.times)
    start = torch.tensor(np.stack([rows.q0, rows.p0], axis=1))
    inside = quadrature_orbit(potential, times, start, task_with(100))
    moved = torch.stack([left + length * start[:, 0], start[:, 1]], dim=1)
    found = quadrature_orbit(potential, length * times, moved, task_with(100, domain))
    torch.testing.assert_close((found[..., 0] - left) / length, inside[..., 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[..., 1], inside[..., 1], atol=1e-5, rtol=0)


def test_the_quadrature_baseline_is_the_orbit_without_a_network():
    rows = draw("paper", 0, "val", np.arange(5))
    potential, times = torch.tensor(rows.hamiltonians.curves.sample(SENSORS)), torch.tensor(rows.times)
    start = torch.tensor(np.stack([rows.q0, rows.p0], axis=1))
    found = quadrature_orbit(potential, times, start, task_with(100))
    assert torch.equal(found, OrbitFinder(task_with(100)).double()(potential, start).state_at(times))
    assert quadrature_orbit(potential.float(), times.float(), start.float(), task_with(100)).dtype == torch.float32
    with pytest.raises(InputError, match="supports one degree of freedom and one channel; this task has 2 and 1"):
        quadrature_orbit(potential, times, start, Task((10, 10), ((0.0, 1.0), (0.0, 1.0)), 2.0))
