"""What training minimises and what it reports.

Shapes: B batch, S sensors, T query times. States are (B, T), or (B, T, d) with d degrees of freedom.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...architectures import Operator, Task
from ...physics import InputError
from ...physics.systems import System
from ..config import TrainingConfig
from .batches import Batch

_ROUNDING = 1e-6  # of the times, so that even ones may be a window apart


class Objective(nn.Module):
    """The loss of each trajectory of a batch under a network, (B,): to be minimised; and its total loss, to be reported.

    The first is the mean over q, p and times of the squared error, of its logarithm of cosh or of its Cauchy loss, with the terms
    that `settings` weighs. The second is always half the sum of the mean squared errors of q and p.

    A network with a window learns from pairs of states of a trajectory, or with `rollouts` from whole trajectories.
    """

    def __init__(self, network: Operator, settings: TrainingConfig) -> None:
        super().__init__()
        self.network, self.settings, self.task = network, settings, network.task

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Both losses, and the network's auxiliary loss, a scalar."""
        if self.network.window is not None and not self.settings.rollouts:
            batch = window_pairs(batch, self.network.window)
        output = self.network(batch.potential, batch.times, batch.initial)
        # What autocast computed in bfloat16 is compared in float32.
        q, p = output.q.float(), output.p.float()
        errors = q - batch.q, p - batch.p
        total_B = _half_sum(*(_mean(error.square()) for error in errors))
        objective_B = total_B
        if self.settings.loss == "log-cosh":
            objective_B = _half_sum(*(2.0 * _mean(log_cosh(error)) for error in errors))
        elif self.settings.loss == "cauchy":
            objective_B = _half_sum(*(_mean(cauchy(error, self.settings.loss_scale)) for error in errors))
        if self.settings.energy_weight:
            objective_B = objective_B + self.settings.energy_weight * energy_defect(q, p, batch, self.task)
        if self.settings.sobolev_weight:
            objective_B = objective_B + self.settings.sobolev_weight * _half_sum(*(slope_error(e, batch.times) for e in errors))
        return objective_B, total_B, output.auxiliary_loss


def window_pairs(batch: Batch, window: float) -> Batch:
    """Each query of a batch as one that starts from another state of its trajectory, drawn among those up to `window` before it.

    Times are then those since that state and `initial` is (B, T, 2d). Where no other state is near enough it is the query's own.
    """
    times_BT = batch.times.expand(len(batch), -1).contiguous()
    num_times = times_BT.shape[1]
    own_BT = torch.arange(num_times, device=times_BT.device).expand_as(times_BT)
    first_BT = torch.searchsorted(times_BT, times_BT - window * (1 + _ROUNDING))
    chosen_BT = first_BT + (torch.rand_like(times_BT) * (own_BT - first_BT)).long()
    chosen_BT = torch.minimum(chosen_BT, (own_BT - 1).clamp(min=0)).maximum(first_BT)
    states = torch.stack([batch.q, batch.p], dim=2).flatten(2)  # (B, T, 2d)
    starts = states.gather(1, chosen_BT.unsqueeze(-1).expand(-1, -1, states.shape[2]))
    return replace(batch, times=times_BT - times_BT.gather(1, chosen_BT), initial=starts)


def total_losses(network: nn.Module, batch: Batch) -> Tensor:
    """Half the sum of the mean squared errors of q and p, (B,)."""
    output = network(batch.potential, batch.times, batch.initial)
    return _half_sum(_mean((output.q - batch.q).square()), _mean((output.p - batch.p).square()))


def check_objective(settings: TrainingConfig, system: System, window: float | None) -> None:
    """Refuse a term of the loss that has no meaning for the system or the network, as an InputError that names the key."""
    if settings.rollouts and window is None:
        raise InputError("training.rollouts is true, which needs architecture.window; without one, trajectories are whole")
    if window is not None and not settings.rollouts:
        for key in ("sobolev_weight", "energy_weight"):
            if getattr(settings, key):
                raise InputError(
                    f"training.{key} is {getattr(settings, key):g}; it compares times of one trajectory, where pairs of states are "
                    "trained: set training.rollouts or leave out architecture.window"
                )
    if settings.energy_weight and not (system.degrees_of_freedom == 1 and system.has_unit_mass):
        raise InputError(
            f"training.energy_weight is {settings.energy_weight:g}; it needs H = p²/2 + V(q) with one degree of freedom, "
            f"which system {system.name!r} does not have; leave it out"
        )


def _mean(values: Tensor) -> Tensor:
    """Over times and components, (B, T) or (B, T, d) -> (B,)."""
    return values.flatten(1).mean(dim=1)


def _half_sum(of_q: Tensor, of_p: Tensor) -> Tensor:
    return 0.5 * (of_q + of_p)


def log_cosh(x: Tensor) -> Tensor:
    """log(cosh(x)): x²/2 near zero, abs(x) - log 2 far from it, without overflow.

    Small errors are where a run ends; there the difference of two numbers near log 2 would be rounding, so the square
    is taken itself.
    """
    magnitude = x.abs()
    far = magnitude + F.softplus(-2.0 * magnitude) - math.log(2.0)
    near = 0.5 * x.square() * (1.0 - x.square() / 6.0)
    return torch.where(magnitude < 0.1, near, far)


def cauchy(x: Tensor, scale: float) -> Tensor:
    """scale² log(1 + (x / scale)²): x² near zero, and ever flatter beyond `scale`."""
    return scale**2 * torch.log1p((x / scale).square())


def energy_defect(q_BT: Tensor, p_BT: Tensor, batch: Batch, task: Task) -> Tensor:
    """The mean square over times of H(q, p) - H(q0, p0), (B,), with V between the sensors by local cubics."""
    energy_BT = 0.5 * p_BT.square() + interpolate(batch.potential, q_BT, task.domain[0])
    q0_B1, p0_B1 = batch.initial.split(1, dim=1)
    initial_B1 = 0.5 * p0_B1.square() + interpolate(batch.potential, q0_B1, task.domain[0])
    return (energy_BT - initial_B1).square().mean(dim=1)


def slope_error(error: Tensor, times: Tensor) -> Tensor:
    """The mean square over the horizon of an error's slope in time, (B,), from neighbouring times.

    An error and its slope together are a norm of the Sobolev space H¹. Differences of predictions need no derivative of the
    network. With several degrees of freedom it is the mean over them.
    """
    steps = torch.diff(times, dim=-1)
    squares = torch.diff(error, dim=1).square()
    squares_BT = (squares if error.ndim == 2 else squares.mean(dim=2)) / steps.clamp(min=1e-6)
    return squares_BT.sum(dim=-1) / steps.sum(dim=-1)


def interpolate(potential_BS: Tensor, q_BT: Tensor, domain: tuple[float, float]) -> Tensor:
    """V (B, T) at q from uniform sensors over the domain, by the cubic through the four nearest; beyond its ends, continued."""
    num_sensors, (low, high) = potential_BS.shape[1], domain
    place_BT = (q_BT - low) / (high - low) * (num_sensors - 1)
    first_BT = (place_BT.detach().floor().long() - 1).clamp(0, num_sensors - 4)
    x = place_BT - first_BT
    values = [potential_BS.gather(1, first_BT + k) for k in range(4)]
    weights = (
        -(x - 1) * (x - 2) * (x - 3) / 6,
        x * (x - 2) * (x - 3) / 2,
        -x * (x - 1) * (x - 3) / 2,
        x * (x - 1) * (x - 2) / 6,
    )
    return sum((w * v for w, v in zip(weights, values, strict=True)), torch.zeros_like(x))
