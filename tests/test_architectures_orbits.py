"""The orbit that energy conservation gives, against exact motion; it is what MambONet reads beside V."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.architectures import build_operator, parse_architecture
from neural_hamilton.architectures.orbits import AngleFeatures, OrbitFinder, passage_time
from neural_hamilton.physics.ensembles import Ensemble, draw_rows

SENSORS = np.linspace(0.0, 1.0, 100)


def find(values, q0, p0, num_sensors=100):
    finder = OrbitFinder(num_sensors).double()
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
        # The error is that of straight pieces a quarter of a sensor's gap wide, largest for small orbits.
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


class TestWells:
    def test_the_other_well_is_not_of_this_orbit(self):
        values = 625 / 8 * (SENSORS - 0.2) ** 2 * (SENSORS - 0.8) ** 2
        left, right = find(values, 0.25, 0.0), find(values, 0.75, 0.0)
        assert float(left.rate) == pytest.approx(float(right.rate), rel=1e-6)
        assert torch.all(left.angle[0, SENSORS > 0.5] == left.angle[0, -1]) and torch.all(right.angle[0, SENSORS < 0.5] == 0)

    def test_at_rest_on_the_bottom(self):
        orbit = find(8 * (SENSORS - 0.5) ** 2, 0.5, 0.0)
        assert all(torch.isfinite(part).all() for part in orbit)


@pytest.mark.parametrize("preset", ["paper", "phase-space"])
def test_a_position_read_off_the_angle_is_nearly_right(preset):
    """On random potentials: straight lines between the sensors' angles, and no network, give q to about a thousandth."""
    rows, _ = draw_rows(Ensemble(preset), 0, "val", np.arange(200))
    finder = OrbitFinder(100)
    potential = torch.tensor(rows.curves.sample(SENSORS), dtype=torch.float32)
    orbit = finder(potential, torch.tensor(np.stack([rows.q0, rows.p0], axis=1), dtype=torch.float32))
    angles = folded(orbit.angle_at(torch.tensor(rows.times, dtype=torch.float32)).numpy())
    errors = [np.sqrt(np.mean((np.interp(angles[i], orbit.angle[i].numpy(), SENSORS) - rows.q[i]) ** 2)) for i in range(len(rows))]
    assert np.median(errors) < 1e-3 and np.max(errors) < 2e-2


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


def test_an_orbit_does_not_depend_on_the_normalisation():
    """The network sees V normalised, but its energies are in V's own units: a network that only shifts its statistics changes."""
    model = build_operator(
        parse_architecture({"name": "mambonet", "d_model": 16, "num_heads": 2, "num_mamba_layers": 1, "d_feedforward": 16})
    )
    potential = torch.tensor(8 * (SENSORS - 0.5) ** 2, dtype=torch.float32)[None]
    seen = []
    hook = model.find_orbit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for mean, scale in ((0.0, 1.0), (0.7, 1.3)):
        model.set_normalisation(mean, scale)
        model(potential, torch.tensor([[1.0]]), torch.zeros(1, 2))
    hook.remove()
    torch.testing.assert_close(seen[0], seen[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[0], potential, atol=1e-6, rtol=0)


def test_published_layers_read_v_alone():
    with pytest.raises(ValueError, match="orbit_inputs"):
        parse_architecture({"name": "mambonet", "preset": "paper", "orbit_inputs": True})
