"""The orbit that energy conservation gives, against exact motion; MambONet answers with it, or reads it beside V."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.architectures import build_operator, parse_architecture
from neural_hamilton.architectures.layers.orbits import AngleFeatures, BetweenSensors, OrbitFinder, fine, passage_time
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
        assert all(torch.isfinite(part).all() for part in orbit)
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
    rows, _ = draw_rows(Ensemble(preset), 0, "val", np.arange(200))
    potential = torch.tensor(rows.curves.sample(SENSORS), dtype=torch.float32)
    times = torch.tensor(rows.times, dtype=torch.float32)
    orbit = OrbitFinder(100)(potential, torch.tensor(np.stack([rows.q0, rows.p0], axis=1), dtype=torch.float32))
    angles = folded(orbit.angle_at(times).numpy())
    by_lines = np.stack([np.interp(angles[i], orbit.angle[i].numpy(), SENSORS) for i in range(len(rows))])
    errors = np.sqrt(np.mean((by_lines - rows.q) ** 2, axis=1))
    assert np.median(errors) < 1e-3 and np.max(errors) < 2e-2
    q, p = orbit.state_at(times).double().numpy().transpose(2, 0, 1)
    losses = 0.5 * np.mean((q - rows.q) ** 2 + (p - rows.p) ** 2, axis=1)
    assert np.median(losses) < typical**2 and np.max(losses) < 2e-2**2


@given(st.integers(0, 199), st.floats(0.0, 2.0))
def test_states_conserve_the_energy_of_the_cells_and_come_back_after_a_period(row, time):
    rows, _ = draw_rows(Ensemble("phase-space"), 0, "val", np.array([row]))
    orbit = find(rows.curves.sample(SENSORS)[0], rows.q0[0], rows.p0[0])
    period = float(2.0 * math.pi / orbit.rate)
    (q, p), later = orbit.state_at(torch.tensor([[time, time + period]], dtype=torch.float64))[0].tolist()
    assert later == pytest.approx([q, p], abs=1e-7)
    place = q * (orbit.kinetic.shape[1] - 1)
    assert p**2 == pytest.approx(np.interp(place, np.arange(orbit.kinetic.shape[1]), orbit.kinetic[0].numpy()), abs=1e-9)


def test_an_orbit_begins_at_its_start():
    rows, _ = draw_rows(Ensemble("phase-space"), 0, "val", np.arange(200))
    start = torch.tensor(np.stack([rows.q0, rows.p0], axis=1))
    orbit = OrbitFinder(100).double()(torch.tensor(rows.curves.sample(SENSORS)), start)
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
    with pytest.raises(ValueError, match="orbit is 'angle'"):
        parse_architecture({"name": "mambonet", "preset": "paper", "orbit": "angle"})


_TINY_NETWORK = {"d_model": 16, "num_heads": 2, "num_mamba_layers": 1, "d_feedforward": 16}


@pytest.mark.parametrize("reads", ["angle", "state"])
def test_what_a_query_carries(reads):
    """The angle and the pace of the motion, or these and q and p."""
    model = build_operator(parse_architecture({"name": "mambonet", "orbit": reads} | _TINY_NETWORK))
    seen = []
    model.embed_orbit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    potential, start = torch.tensor(8 * (SENSORS - 0.5) ** 2, dtype=torch.float32)[None], torch.tensor([[0.2, 0.0]])
    times = torch.linspace(0, 2, 5)[None]
    model(potential, times, start)
    features, orbit = seen[0], model.find_orbit(potential, start)
    assert features.shape[-1] == 2 * 16 + 1 + 2 * (reads == "state")
    torch.testing.assert_close(features[..., :32], model.angle_features(orbit.angle_at(times)), atol=1e-4, rtol=0)
    if reads == "state":
        q, p = orbit.state_at(times).unbind(-1)
        torch.testing.assert_close(features[..., -2:], torch.stack([2.0 * q - 1.0, p], dim=-1))


class TestSolved:
    """V is corrected between the sensors, and the orbit follows."""

    @pytest.mark.parametrize("num_sensors", [13, 25])
    def test_with_the_right_v_between_the_sensors_few_are_enough(self, num_sensors):
        rows, _ = draw_rows(Ensemble("paper"), 0, "val", np.arange(100))
        sensors = np.linspace(0.0, 1.0, num_sensors)
        finder = OrbitFinder(num_sensors).double()
        potential = torch.tensor(rows.curves.sample(sensors))
        start, times = torch.tensor(np.stack([rows.q0, rows.p0], axis=1)), torch.tensor(rows.times)
        grid = np.linspace(0.0, 1.0, fine(num_sensors).cells * (num_sensors - 1) + 1)
        missing = torch.tensor(rows.curves.sample(grid)) - finder.refine(potential)
        losses = []
        for correction in (None, missing):
            q, p = finder(potential, start, correction).state_at(times).numpy().transpose(2, 0, 1)
            losses.append(0.5 * np.mean((q - rows.q) ** 2 + (p - rows.p) ** 2, axis=1).mean())
        assert losses[0] > 5e-5 and losses[1] < 1e-8

    @pytest.mark.parametrize(("row", "p0"), [(0, 0.0), (1, 0.0), (2, 0.7), (3, -0.4)])
    def test_slopes_are_those_of_differences(self, row, p0):
        """Of q and p with respect to V between the sensors, at a start on a wall as elsewhere."""
        rows, _ = draw_rows(Ensemble("paper"), 0, "val", np.array([row]))
        finder, cells = OrbitFinder(100).double(), fine(100).cells
        potential, times = torch.tensor(rows.curves.sample(SENSORS)), torch.linspace(0.05, 2.0, 40).double()[None]
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
        OrbitFinder(100)(values, torch.tensor([[q0, p0]]), correction).state_at(torch.linspace(0, 2, 33)[None]).sum().backward()
        assert torch.isfinite(correction.grad).all()

    def test_a_correction_vanishes_at_the_sensors_and_scales_with_their_distance(self):
        for num_sensors in (25, 100):
            between = BetweenSensors(num_sensors, 16, 4)
            memory = torch.randn(2, num_sensors, 16)
            assert between(memory).shape == (2, (num_sensors - 1) * fine(num_sensors).cells + 1) and torch.all(between(memory) == 0)
            torch.nn.init.zeros_(between.say[-1].weight)
            between.say[-1].bias.data.copy_(torch.tensor([1.0, 0, 0, 0]))
            correction = between(memory)
            assert torch.all(correction[:, :: fine(num_sensors).cells] == 0)
            assert float(correction.detach().max()) == pytest.approx(1 / (num_sensors - 1), rel=1e-3)

    def test_noisy_sensors_are_corrected_too_and_lines_join_them(self):
        between = BetweenSensors(25, 16, 4, exact_sensors=False)
        memory = torch.randn(2, 25, 16)
        assert torch.all(between(memory) == 0)
        torch.nn.init.normal_(between.say_of_sensor[-1].weight)
        correction, said = between(memory).detach(), between.say_of_sensor(memory).detach()[..., 0] / 24
        torch.testing.assert_close(correction[:, :: fine(25).cells], said)
        torch.testing.assert_close(correction[:, fine(25).cells // 2 :: fine(25).cells], 0.5 * (said[:, 1:] + said[:, :-1]))

    @pytest.mark.parametrize(
        "sizes", [{}, {"gate_time": None}, {"hard_initial_condition": False}], ids=["gate", "powers of t", "start learnt"]
    )
    def test_an_untrained_network_answers_what_it_is_told(self, sizes):
        model = build_operator(parse_architecture({"name": "mambonet"} | _TINY_NETWORK | sizes)).eval()
        potential, start = torch.tensor(8 * (SENSORS - 0.5) ** 2, dtype=torch.float32)[None], torch.tensor([[0.2, 0.3]])
        times = torch.linspace(0, 2, 9)[None]
        output, told = model(potential, times, start), model.told(potential, times, start)
        torch.testing.assert_close(torch.stack([output.q, output.p], dim=-1), told, atol=1e-6, rtol=0)
        torch.nn.init.constant_(model.between_sensors.say[-1].bias, 1.0)
        assert (model(potential, times, start).q - told[..., 0]).abs().max() > 1e-3

    def test_it_has_no_decoder(self):
        solved, attentive = (
            build_operator(parse_architecture({"name": "mambonet", "orbit": x} | _TINY_NETWORK)) for x in ("solved", "none")
        )
        assert not any("decoder" in name or "query" in name or "head" in name for name, _ in solved.named_parameters())
        assert any("decoder" in name for name, _ in attentive.named_parameters())

    def test_it_learns_from_trajectories_what_the_sensors_miss(self):
        rows, _ = draw_rows(Ensemble("paper"), 0, "val", np.arange(8))
        potential = torch.tensor(rows.curves.sample(np.linspace(0.0, 1.0, 25)), dtype=torch.float32)
        times, start = (torch.tensor(x, dtype=torch.float32) for x in (rows.times, np.stack([rows.q0, rows.p0], axis=1)))
        q, p = (torch.tensor(x, dtype=torch.float32) for x in (rows.q, rows.p))
        torch.manual_seed(0)
        model = build_operator(parse_architecture({"name": "mambonet", "num_sensors": 25} | _TINY_NETWORK))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        losses = []
        for _ in range(250):
            output = model(potential, times, start)
            loss = 0.5 * ((output.q - q).square().mean() + (output.p - p).square().mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert min(losses) < losses[0] / 10
