"""Optimizers, averages of weights and schedules: each against what its definition says."""

import copy

import numpy as np
import pytest
import pytorch_optimizer
import torch

from neural_hamilton.architectures import Task, build_operator, parse_architecture
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.optimizers import Optimizer, WeightAverage
from neural_hamilton.platform.training.schedules import learning_rate_at, ramp
from neural_hamilton.platform.training.soap import SOAP

TASK = Task((10,), ((0.0, 1.0),), 2.0)


def settings_with(**fields):
    return load_config(None, {f"training.{key}": value for key, value in fields.items()}).training


def network():
    torch.manual_seed(0)
    return build_operator(parse_architecture({"name": "deeponet", "width": 16, "num_channels": 8}), TASK)


OPTIMIZERS = {
    "adamw": {"learning_rate": 3e-3},
    "muon": {"learning_rate": 1e-2},
    "soap": {"learning_rate": 1e-2},
    "splus": {"learning_rate": 0.1},
    "schedule-free": {"learning_rate": 1e-2, "schedule": "constant"},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_fits_a_small_batch(name):
    model, settings = network(), settings_with(optimizer=name, **OPTIMIZERS[name])
    optimizer = Optimizer(model, settings)
    torch.manual_seed(1)
    potential, times, initial = torch.randn(8, 10), torch.linspace(0, 2, 12), torch.zeros(8, 2)
    target = torch.sin(times + potential[:, :1])

    def loss():
        return (model(potential, times, initial).p - target).square().mean()

    with optimizer.evaluating():
        before = float(loss().detach())
    for _ in range(400 if name == "splus" else 150):  # whose average is a long one
        loss().backward()
        optimizer.step(settings.learning_rate)
        assert all(p.grad is None for p in model.parameters())
    with optimizer.evaluating():
        assert float(loss().detach()) < 0.2 * before


@pytest.mark.parametrize("name", ["splus", "schedule-free"])
def test_what_averages_by_itself_is_judged_by_its_average(name):
    model, settings = network(), settings_with(optimizer=name, **OPTIMIZERS[name])
    optimizer = Optimizer(model, settings)
    for _ in range(3):
        model(torch.randn(4, 10), torch.linspace(0, 2, 5), torch.zeros(4, 2)).q.square().mean().backward()
        optimizer.step(settings.learning_rate)
    trained = copy.deepcopy(model.state_dict())
    with optimizer.evaluating():
        assert any(not torch.equal(trained[key], value) for key, value in model.state_dict().items())
    torch.testing.assert_close(dict(model.state_dict()), dict(trained))


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    """By the effect of one step on random gradients: Muon's is near-orthogonal, every number of AdamW's is its rate."""
    sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1, "d_feedforward": 64}
    model = build_operator(parse_architecture({"name": "traonet", **sizes}), TASK)
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = Optimizer(model, settings_with(optimizer="muon", weight_decay=0.0))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step(1e-3)
    moved = {key: p.detach() - before[key].detach() for key, p in model.named_parameters()}
    spread = {key: torch.linalg.svdvals(step) for key, step in moved.items() if key.endswith("feedforward.0.weight")}
    assert spread and all(float(values.max() / values.quantile(0.1)) < 3 for values in spread.values())
    for key in ("head.weight", "head.bias", "decoder_norm.weight"):
        torch.testing.assert_close(moved[key].abs(), torch.full_like(moved[key], 1e-3), rtol=1e-3, atol=1e-7)


def test_a_matrix_times_the_same_scale_of_gradient_gives_the_same_adamw_step():
    model = network()
    optimizer = Optimizer(model, settings_with(weight_decay=0.0))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    optimizer.step(2e-3)
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old - 2e-3, rtol=0, atol=1e-6)


def test_soap_steps_as_far_on_a_tiny_loss_as_on_a_large_one():
    """A loss of 1e-8 has gradients so small that the optimizer's usual epsilon would hold them back."""
    moved = []
    for scale in (1.0, 1e-8):
        model = network()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer = Optimizer(model, settings_with(optimizer="soap", weight_decay=0.0))
        for seed in range(20):
            torch.manual_seed(seed)
            for p in model.parameters():
                p.grad = scale * torch.randn_like(p)
            optimizer.step(1e-2)
        moved.append(float((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm()))
    assert moved[1] == pytest.approx(moved[0], rel=0.02)


def test_average_is_the_exponential_one_and_short_at_first():
    model = network()
    average = WeightAverage(model, decay=0.95)
    weight, expected = next(model.parameters()), next(model.parameters()).detach().clone()
    for step in range(1, 300):
        with torch.no_grad():
            weight.fill_(float(step))
        average.update()
        decay = min(0.95, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(next(average.model.parameters()), expected, rtol=1e-5, atol=0)
    assert not any(p.requires_grad for p in average.model.parameters())


def test_schedules_begin_and_end_where_they_should():
    for schedule in ("cosine", "exp-hyperbolic", "warmup-stable-decay"):
        settings = settings_with(schedule=schedule, epochs=250, final_learning_rate=3.05e-7)
        rates = [learning_rate_at(settings, epoch) for epoch in np.linspace(0, 250, 1001)]
        assert rates[0] == pytest.approx(1e-3) and all(np.diff(rates) <= 0)
        if schedule != "exp-hyperbolic":  # whose published form reaches the last rate at its bound, beyond the run
            assert rates[-1] == pytest.approx(3.05e-7)
    assert {learning_rate_at(settings_with(schedule="constant"), epoch) for epoch in (0, 10.5, 50)} == {1e-3}


def test_warmup_stable_decay_is_constant_then_straight():
    settings = settings_with(schedule="warmup-stable-decay", epochs=100, decay_fraction=0.2, warmup_epochs=5, final_learning_rate=1e-5)
    assert learning_rate_at(settings, 2.5) == pytest.approx(5e-4)
    assert learning_rate_at(settings, 5) == learning_rate_at(settings, 80) == 1e-3
    assert learning_rate_at(settings, 90) == pytest.approx((1e-3 + 1e-5) / 2)


def test_exp_hyperbolic_is_the_published_formula_and_changes_once_an_epoch():
    settings = settings_with(schedule="exp-hyperbolic", epochs=250, learning_rate=1.46e-3, final_learning_rate=3.05e-7)
    # By hand at x = 125, U = 300, N = 250.
    exponent = ((125 / 300) * (2 - 375 / 300)) ** 0.5 - ((250 / 300) * (2 - 250 / 300)) ** 0.5
    assert learning_rate_at(settings, 125) == pytest.approx(1.46e-3 * (1.46e-3 / 3.05e-7) ** exponent)
    assert learning_rate_at(settings, 125.9) == learning_rate_at(settings, 125)


def test_ramp():
    assert [ramp(epoch, 4.0) for epoch in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert ramp(0, 0.0) == 1


def test_soap_is_that_of_pytorch_optimizer():
    """On square matrices: of others the first bases are not unique, as one gradient does not span them."""
    torch.manual_seed(0)
    shapes = [(6, 6), (6, 6), (4, 4), (6, 6), (5,), (3,), (), (4, 4)]
    ours = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    theirs = [parameter.detach().clone().requires_grad_() for parameter in ours]
    soap = SOAP(ours, weight_decay=0.01, epsilon=1e-14)
    reference = pytorch_optimizer.SOAP(theirs, lr=1e-2, weight_decay=0.01, eps=1e-14)
    for step in range(45):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one) * (1.0 + torch.arange(one.numel(), dtype=torch.float64).reshape(one.shape))
            other.grad = one.grad.clone()
        soap.prepare(1e-2 / (1 + step))
        soap.update()
        soap.finish()
        reference.param_groups[0]["lr"] = 1e-2 / (1 + step)
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # which factorises in float32


def test_soap_does_not_depend_on_how_parameters_are_grouped():
    """Alone or beside others of its shape, a matrix or tensor takes the same steps; one without a gradient stays as it is."""
    torch.manual_seed(1)
    start = [torch.randn(3, 7), torch.randn(3, 7), torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(9)]
    together = [x.clone().requires_grad_() for x in [*start, torch.ones(2)]]
    alone = [x.clone().requires_grad_() for x in start]
    optimizers = [(SOAP(together, 0.1, 1e-14), together), *((SOAP([x], 0.1, 1e-14), [x]) for x in alone)]
    for step in range(25):
        torch.manual_seed(step)
        gradients = [torch.randn_like(x) for x in start]
        for optimizer, parameters in optimizers:
            own = gradients if len(parameters) > 1 else [gradients[next(i for i, x in enumerate(alone) if x is parameters[0])]]
            for parameter, gradient in zip(parameters, own, strict=False):
                parameter.grad = gradient.clone()
            optimizer.prepare(1e-2)
            optimizer.update()
            optimizer.finish()
    for one, other in zip(together, alone, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert torch.equal(together[-1], torch.ones(2))
