"""What is minimised: against formulas written out here, and on exact solutions."""

import math

import numpy as np
import pytest
import torch

from neural_hamilton.architectures import OperatorOutput, Task
from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import get_system
from neural_hamilton.physics.systems.well.textbook import NAMED_POTENTIALS
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.batches import Batch
from neural_hamilton.platform.training.objectives import (
    Objective,
    cauchy,
    check_objective,
    energy_defect,
    interpolate,
    log_cosh,
    slope_error,
    total_losses,
    window_pairs,
)


def exact_batch(name="harmonic", num_sensors=100, num_times=60):
    times = np.linspace(0.0, 2.0, num_times)
    potential = NAMED_POTENTIALS[name]
    q, p = potential.truth(times)
    arrays = (potential.value(np.linspace(0, 1, num_sensors))[None], times[None], q[None], p[None], np.zeros((1, 2)))
    return Batch(*(torch.tensor(a, dtype=torch.float64) for a in arrays))


LINE = Task((100,), ((0.0, 1.0),), 2.0)


class Fixed(torch.nn.Module):
    """A network that predicts given numbers."""

    task, window = LINE, None

    def __init__(self, q, p, auxiliary=0.0):
        super().__init__()
        self.q, self.p, self.auxiliary = q, p, torch.tensor(auxiliary)

    def forward(self, potential, times, initial):
        return OperatorOutput(self.q, self.p, self.auxiliary)


def objective(batch, q, p, **settings):
    settings = load_config(None, {f"training.{key}": value for key, value in settings.items()}).training
    return Objective(Fixed(q, p, 0.25), settings)(batch)


def test_total_loss_is_half_the_sum_of_mean_squares():
    batch = exact_batch()
    q, p = batch.q + 0.1, batch.p - 0.3
    expected = 0.5 * (0.1**2 + 0.3**2)
    assert float(total_losses(Fixed(q, p), batch)) == pytest.approx(expected)
    minimised, reported, auxiliary = objective(batch, q, p)
    assert float(minimised) == pytest.approx(expected) and float(reported) == pytest.approx(expected)
    assert float(auxiliary) == 0.25


def test_log_cosh_is_what_it_says_and_is_reported_as_a_square():
    x = torch.tensor([0.0, 1e-6, -1e-3, 0.0999, 0.1001, -1.0, 5.0], dtype=torch.float64)
    expected = [math.log(math.cosh(v)) for v in x.tolist()]
    torch.testing.assert_close(log_cosh(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-16)
    assert float(log_cosh(torch.tensor(1e4))) == pytest.approx(1e4 - math.log(2))
    small = torch.tensor([1e-4, 3e-4])
    torch.testing.assert_close(log_cosh(small), 0.5 * small.square(), rtol=1e-6, atol=0)  # no cancellation in float32
    assert torch.autograd.gradcheck(log_cosh, x.clone().requires_grad_(True), atol=1e-4)
    batch = exact_batch()
    minimised, reported, _ = objective(batch, batch.q + 2.0, batch.p, loss="log-cosh")
    assert float(minimised) == pytest.approx(math.log(math.cosh(2.0))) and float(reported) == pytest.approx(2.0)
    minimised, reported, _ = objective(batch, batch.q + 0.01, batch.p, loss="log-cosh")
    assert float(minimised) == pytest.approx(float(reported), rel=1e-3)  # small errors: the same as squares


def test_the_cauchy_loss_is_a_square_near_zero_and_grows_as_a_logarithm():
    x = torch.tensor([0.0, 1e-6, -1e-4, 0.01, 1.0], dtype=torch.float64)
    expected = [1e-4 * math.log1p((v / 0.01) ** 2) for v in x.tolist()]
    torch.testing.assert_close(cauchy(x, 0.01), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda v: cauchy(v, 0.01), x.clone().requires_grad_(True), eps=1e-8, atol=1e-6)
    batch = exact_batch()
    minimised, reported, _ = objective(batch, batch.q + 2.0, batch.p, loss="cauchy", loss_scale=0.1)
    assert float(minimised) == pytest.approx(0.5 * 0.01 * math.log1p(400.0), rel=1e-5) and float(reported) == pytest.approx(2.0)


def test_cubics_through_the_sensors_give_cubics_exactly_and_smooth_potentials_closely():
    sensors = torch.linspace(0, 1, 30, dtype=torch.float64)
    q = torch.linspace(-0.05, 1.05, 77, dtype=torch.float64).unsqueeze(0)

    def cubic(x):
        return 2 - 3 * x + x**2 - 5 * x**3

    torch.testing.assert_close(interpolate(cubic(sensors).unsqueeze(0), q, (0.0, 1.0)), cubic(q))
    batch = exact_batch("double-well")
    inside = q.clamp(0, 1)
    exact = NAMED_POTENTIALS["double-well"].value(inside.numpy())
    np.testing.assert_allclose(interpolate(batch.potential, inside, (0.0, 1.0)).numpy(), exact, atol=2e-4)


@pytest.mark.parametrize("name", ["harmonic", "double-well", "morse"])
def test_energy_defect_is_zero_on_exact_orbits_and_grows_with_the_error(name):
    batch = exact_batch(name)
    assert float(energy_defect(batch.q, batch.p, batch, LINE)) < 1e-6
    wrong = float(energy_defect(batch.q, 1.1 * batch.p, batch, LINE))
    kinetic = 0.5 * batch.p.square() * (1.1**2 - 1)
    assert wrong == pytest.approx(float(kinetic.square().mean()), rel=0.02)


def test_energy_defect_leads_a_prediction_home():
    """Its gradient, in q alone, moves a wrong q towards the energy surface."""
    batch = exact_batch()
    q = (batch.q + 0.02).requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy_defect(q, batch.p, batch, LINE).sum(), q)
    after = energy_defect((q - 0.01 * gradient).detach(), batch.p, batch, LINE)
    assert float(after) < float(energy_defect(q.detach(), batch.p, batch, LINE))


EVEN = torch.linspace(0, 2, 2001)
UNEVEN = torch.cat([torch.zeros(1), 2 * torch.rand(3000, generator=torch.Generator().manual_seed(0)).sort().values, torch.full((1,), 2.0)])


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_slope_error_is_the_mean_square_of_the_derivative(times):
    """Of sin(3t) and of cos(t), by the integrals done by hand; times even or not."""
    times = times.double()
    errors = torch.stack([torch.sin(3 * times), torch.cos(times)])
    expected = [9 * (0.5 + math.sin(12) / 24), 0.5 - math.sin(4) / 8]
    assert slope_error(errors, times.unsqueeze(0)).tolist() == pytest.approx(expected, rel=2e-3)


def test_slope_error_survives_times_that_coincide():
    times = torch.tensor([[0.0, 0.5, 0.5, 2.0]])
    assert torch.isfinite(slope_error(torch.randn(3, 4), times)).all()


def test_terms_are_added_with_their_weights():
    batch = exact_batch()
    q, p = batch.q + 0.1 * torch.sin(batch.times), batch.p
    plain, total, _ = objective(batch, q, p)
    weighted, same, _ = objective(batch, q, p, energy_weight=2.0, sobolev_weight=0.5)
    slopes = slope_error(q - batch.q, batch.times) + slope_error(p - batch.p, batch.times)
    expected = plain + 2.0 * energy_defect(q, p, batch, LINE) + 0.5 * 0.5 * slopes
    torch.testing.assert_close(weighted, expected.to(weighted.dtype), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(same, total)


def test_two_degrees_of_freedom_average_over_components():
    torch.manual_seed(0)
    states = [torch.randn(3, 7, 2, dtype=torch.float64) for _ in range(4)]
    times = torch.linspace(0, 1, 7, dtype=torch.float64).expand(3, -1)
    batch = Batch(torch.zeros(3, 1, 4, 4), times, states[0], states[1], torch.zeros(3, 4))
    minimised, reported, _ = objective(batch, states[2].float(), states[3].float(), sobolev_weight=0.5)
    errors = [states[2].float() - states[0], states[3].float() - states[1]]
    total = 0.5 * sum(error.square().mean(dim=(1, 2)) for error in errors)
    torch.testing.assert_close(reported, total)
    slopes = 0.5 * sum(((error[:, 1:] - error[:, :-1]) * 6).square().mean(dim=(1, 2)) for error in errors)
    torch.testing.assert_close(minimised, total + 0.5 * slopes)


@pytest.mark.parametrize("shared_times", [True, False])
def test_pairs_start_from_other_states_of_the_same_trajectory(shared_times):
    torch.manual_seed(0)
    times = torch.rand(1 if shared_times else 50, 40).mul(2.0).sort(dim=1).values.double()
    phase = times + torch.arange(50.0)[:, None]
    batch = Batch(torch.rand(50, 8).double(), times, phase.sin(), phase.cos(), torch.stack([phase[:, 0].sin(), phase[:, 0].cos()], dim=1))
    pairs, elapsed = window_pairs(batch, 0.3), window_pairs(batch, 0.3).times
    q0, p0 = pairs.initial.unbind(dim=-1)
    torch.testing.assert_close(q0 * pairs.times.cos() + p0 * pairs.times.sin(), batch.q)  # a rotation by the time since the start
    assert pairs.q is batch.q and pairs.potential is batch.potential
    assert (pairs.times >= 0).all() and (pairs.times <= 0.3 + 1e-6).all() and not torch.equal(pairs.times, elapsed)
    gaps = times.diff(dim=1).expand(50, -1)
    assert ((pairs.times[:, 1:] > 0) == (gaps <= 0.3)).all()  # none but itself only where none is near enough
    assert (pairs.times > 0.25).any()


def test_what_pairs_of_states_cannot_give_is_refused():
    well = get_system("well")
    for settings, window, sentence in [
        ({"sobolev_weight": 0.1}, 0.5, r"training\.sobolev_weight is 0\.1.*set training\.rollouts"),
        ({"rollouts": True}, None, r"training\.rollouts is true, which needs architecture\.window"),
    ]:
        with pytest.raises(InputError, match=sentence):
            check_objective(load_config(None, {"training": settings}).training, well, window)
    check_objective(load_config(None, {"training": {"sobolev_weight": 0.1, "rollouts": True}}).training, well, 0.5)


def test_an_energy_term_without_meaning_is_refused():
    class Plane:
        name, degrees_of_freedom, has_unit_mass = "plane", 2, True

    settings = load_config(None, {"training.energy_weight": 0.1}).training
    with pytest.raises(InputError, match=r"training.energy_weight is 0.1.*'plane'"):
        check_objective(settings, Plane(), None)
    check_objective(settings, get_system("well"), None)
