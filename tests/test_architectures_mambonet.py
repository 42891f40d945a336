"""MambONet with the phase angle of the motion, beside the contract."""

import numpy as np
import torch

from neural_hamilton.architectures import Task, build_operator, parse_architecture

SENSORS = np.linspace(0.0, 1.0, 100)
TASK = Task(sensors=(100,), domain=((0.0, 1.0),), horizon=2.0)
_TINY = {"name": "mambonet", "phase_angle": True, "d_model": 16, "num_heads": 2, "num_mamba_layers": 1, "d_feedforward": 16}


def test_the_phase_angle_does_not_depend_on_the_normalisation():
    """The network sees V normalised, but the angle is that of V in its own units."""
    model = build_operator(parse_architecture(_TINY), TASK)
    potential = torch.tensor(8 * (SENSORS - 0.5) ** 2, dtype=torch.float32)[None]
    seen = []
    hook = model.find_orbit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for mean, scale in ((0.0, 1.0), (0.7, 1.3)):
        model.set_normalisation(mean, scale)
        model(potential, torch.tensor([[1.0]]), torch.zeros(1, 2))
    hook.remove()
    torch.testing.assert_close(seen[0], seen[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[0], potential, atol=1e-6, rtol=0)


def test_a_query_carries_the_angle_and_the_rate_of_the_motion():
    model = build_operator(parse_architecture(_TINY), TASK)
    seen = []
    model.embed_orbit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    potential, start = torch.tensor(8 * (SENSORS - 0.5) ** 2, dtype=torch.float32)[None], torch.tensor([[0.2, 0.0]])
    times = torch.linspace(0, 2, 5)[None]
    model(potential, times, start)
    features, orbit = seen[0], model.find_orbit(potential, start)
    assert features.shape[-1] == 2 * 16 + 1
    torch.testing.assert_close(features[..., :32], model.angle_features(orbit.angle_at(times)), atol=1e-4, rtol=0)
    torch.testing.assert_close(features[..., 32], (orbit.rate / np.pi).log().expand(1, 5), atol=1e-5, rtol=0)
