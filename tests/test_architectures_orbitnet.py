"""OrbitNet beside the contract: its correction of V, what it predicts before training, and that it learns."""

import numpy as np
import pytest
import torch
from well_helpers import draw

from neural_hamilton.architectures import Task, build_operator, parse_architecture
from neural_hamilton.architectures.layers.orbit_quadrature import CorrectionBetweenSensors, fine, quadrature_orbit

SENSORS = np.linspace(0.0, 1.0, 100)
_TINY = {"name": "orbitnet", "d_model": 16, "num_mamba_layers": 1}


def task_with(num_sensors):
    return Task(sensors=(num_sensors,), domain=((0.0, 1.0),), horizon=2.0)


def test_a_correction_vanishes_at_the_sensors_and_scales_with_their_distance():
    for num_sensors in (25, 100):
        between = CorrectionBetweenSensors(num_sensors, 16, 4)
        memory = torch.randn(2, num_sensors, 16)
        assert between(memory).shape == (2, (num_sensors - 1) * fine(num_sensors).cells + 1) and torch.all(between(memory) == 0)
        torch.nn.init.zeros_(between.say[-1].weight)
        between.say[-1].bias.data.copy_(torch.tensor([1.0, 0, 0, 0]))
        correction = between(memory)
        assert torch.all(correction[:, :: fine(num_sensors).cells] == 0)
        assert float(correction.detach().max()) == pytest.approx(1 / (num_sensors - 1), rel=1e-3)


def test_noisy_sensors_are_corrected_too_and_lines_join_them():
    between = CorrectionBetweenSensors(25, 16, 4, exact_sensors=False)
    memory = torch.randn(2, 25, 16)
    assert torch.all(between(memory) == 0)
    torch.nn.init.normal_(between.say_of_sensor[-1].weight)
    correction, predicted = between(memory).detach(), between.say_of_sensor(memory).detach()[..., 0] / 24
    torch.testing.assert_close(correction[:, :: fine(25).cells], predicted)
    torch.testing.assert_close(correction[:, fine(25).cells // 2 :: fine(25).cells], 0.5 * (predicted[:, 1:] + predicted[:, :-1]))


def test_before_training_it_predicts_the_quadrature_baseline():
    model = build_operator(parse_architecture(_TINY), task_with(100)).eval()
    potential, start = torch.tensor(8 * (SENSORS - 0.5) ** 2, dtype=torch.float32)[None], torch.tensor([[0.2, 0.3]])
    times = torch.linspace(0, 2, 9)[None]
    output, baseline = model(potential, times, start), quadrature_orbit(potential, times, start, model.task)
    torch.testing.assert_close(torch.stack([output.q, output.p], dim=-1), baseline, atol=1e-6, rtol=0)
    torch.nn.init.constant_(model.between_sensors.say[-1].bias, 1.0)
    assert (model(potential, times, start).q - baseline[..., 0]).abs().max() > 1e-3


def test_it_reads_v_in_its_own_units_whatever_the_normalisation():
    model = build_operator(parse_architecture(_TINY), task_with(100)).double().eval()
    potential = torch.tensor(8 * (SENSORS - 0.5) ** 2)[None]
    times, start = torch.linspace(0, 2, 9).double()[None], torch.tensor([[0.2, 0.3]]).double()
    predictions = []
    for mean, scale in ((0.0, 1.0), (0.7, 1.3)):
        model.set_normalisation(mean, scale)
        predictions.append(model(potential, times, start).q)  # the correction is zero before training
    torch.testing.assert_close(*predictions, atol=1e-12, rtol=0)


def test_it_has_no_decoder():
    names = [name for name, _ in build_operator(parse_architecture(_TINY), task_with(100)).named_parameters()]
    assert not any(part in name for name in names for part in ("decoder", "query", "head"))


def test_it_learns_from_trajectories_what_the_sensors_miss():
    rows = draw("paper", 0, "val", np.arange(8))
    potential = torch.tensor(rows.hamiltonians.curves.sample(np.linspace(0.0, 1.0, 25)), dtype=torch.float32)
    times, start = (torch.tensor(x, dtype=torch.float32) for x in (rows.times, np.stack([rows.q0, rows.p0], axis=1)))
    q, p = (torch.tensor(x, dtype=torch.float32) for x in (rows.q, rows.p))
    torch.manual_seed(0)
    model = build_operator(parse_architecture(_TINY), task_with(25))
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
