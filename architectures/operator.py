"""What every architecture is: potential, times, initial state in; trajectory out.

Shapes: B batch, U rows that may differ (1 where all rows share them, else B), S sensors, T query times, F time features.
"""

import math
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class ArchitectureConfig(BaseModel):
    """Sizes of a network. Each architecture subclasses this and sets a literal `name`.

    `presets` names sets of values: `default` is the fields' own defaults. A preset is what one starts from;
    it is resolved as the configuration is read, which then holds plain sizes and no trace of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    name: str
    num_sensors: int = Field(default=100, ge=4, description="sensors of V on [0, 1] the network reads")
    hard_initial_condition: bool = Field(default=True, description="impose (q0, p0) at t = 0 exactly; if false, the network learns it")
    # 0.4 left MambONet with 1.6 times the loss of 0.1, powers of t with 3 times.
    gate_time: float | None = Field(default=0.1, gt=0, description="time in which an imposed start lets go; null: as powers of t grow")

    @property
    def queries_are_independent(self) -> bool:
        """Whether an answer at one time depends on that time alone, whatever else is asked for with it."""
        return True


class OperatorOutput(NamedTuple):
    """q, p (B, T); `auxiliary_loss` is a scalar added to the training loss (zero for most networks, and in evaluation).

    It comes weighted; a trainer may multiply it by a schedule of its own, such as a warm-up.
    """

    q: Tensor
    p: Tensor
    auxiliary_loss: Tensor


class Answer(NamedTuple):
    """What a network says: `free`, which broadcasts to (B, T, 2), is what it has learnt of q and p.

    `auxiliary_loss` is as in `OperatorOutput`. `told` (B, T, 2) is a trajectory that this corrects, with the initial state in
    it; None where it starts from that state alone.
    """

    free: Tensor
    auxiliary_loss: Tensor
    told: Tensor | None = None


class Operator(nn.Module):
    """A neural operator from V at S uniform sensors to the trajectory at any query times.

    Subclasses implement `answer`; the base class normalises V and imposes the initial state exactly:

        q(t) = q0 + g(t) a(t),    p(t) = p0 + g(t) b(t),    g(t) = 1 - exp(-t / gate_time),    (a, b) = answer(...)

    so the initial condition holds to rounding and t = 0 costs the network nothing. A gate that soon is 1 leaves errors as
    they are; powers of t multiply them. With `gate_time: null`, as in version 0.1, these are q0 + p0 t + t^2 a(t) and
    p0 + t b(t). Where the configuration says `hard_initial_condition: false`, (q, p) = answer(...) instead. A trajectory that
    the network corrects takes the place of (q0, p0), which it has at t = 0.
    """

    Config: ClassVar[type[ArchitectureConfig]]
    potential_mean: Tensor
    potential_scale: Tensor

    def __init__(self, config: ArchitectureConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("potential_mean", torch.zeros(()))
        self.register_buffer("potential_scale", torch.ones(()))

    def set_normalisation(self, mean: float, scale: float) -> None:
        """Statistics of V over the training split; stored with the weights."""
        self.potential_mean.fill_(mean)
        self.potential_scale.fill_(scale)

    def answer(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> Answer:
        """The free part of the answer, from a normalised potential."""
        raise NotImplementedError

    def told(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> Tensor | None:
        """(q, p) (B, T, 2) as far as what the network reads already says them, from V in its own units; None where it says nothing."""
        return None

    def forward(self, potential_BS: Tensor, times: Tensor, initial: Tensor) -> OperatorOutput:
        """The trajectories of B potentials (B, S) at times (B, T) from initial states (B, 2).

        Times (T,) or (1, T), and an initial state (2,) or (1, 2), stand for every row. What depends on them alone is
        then computed once instead of B times, as it is for a (B, T) that is expanded and holds one row in memory.
        """
        if potential_BS.shape[-1] != self.config.num_sensors:
            raise ValueError(f"potential has {potential_BS.shape[-1]} sensors; this network reads {self.config.num_sensors}")
        times_BT, initial_B2 = (x.expand(potential_BS.shape[0], -1) for x in (times, initial))
        normalised_BS = (potential_BS - self.potential_mean) / self.potential_scale
        free_BT2, auxiliary_loss, told_BT2 = self.answer(normalised_BS, times_BT, initial_B2)
        if self.config.hard_initial_condition:
            known_BT2, gate_BT2 = self._start(times_BT, initial_B2)
            if told_BT2 is not None:  # which has the start but for rounding
                known_BT2 = torch.where(times_BT.unsqueeze(-1) == 0.0, known_BT2, told_BT2)
            trajectory_BT2 = known_BT2 + gate_BT2 * free_BT2
        else:
            trajectory_BT2 = free_BT2 if told_BT2 is None else told_BT2 + free_BT2
        return OperatorOutput(trajectory_BT2[..., 0], trajectory_BT2[..., 1], auxiliary_loss)

    def _start(self, times_BT: Tensor, initial_B2: Tensor) -> tuple[Tensor, Tensor]:
        """What an imposed start says of (q, p), and the gate that lets go of it, both such that they broadcast to (B, T, 2)."""
        if self.config.gate_time is not None:
            return initial_B2.unsqueeze(1), -torch.expm1(times_BT / -self.config.gate_time).unsqueeze(-1)
        q0_B1, p0_B1 = initial_B2.split(1, dim=-1)
        known_BT2 = torch.stack([q0_B1 + times_BT * p0_B1, p0_B1.expand_as(times_BT)], dim=-1)
        return known_BT2, torch.stack([times_BT.square(), times_BT], dim=-1)


def distinct_rows(x_BN: Tensor) -> Tensor:
    """(B, N) -> (U, N): the one row that all B share in memory, else all of them.

    Strides tell, so this neither reads the values nor waits for a GPU.
    """
    return x_BN[:1] if x_BN.stride(0) == 0 else x_BN


class TimeFeatures(nn.Module):
    """t and sines and cosines of it, (B, T) -> (B, T, 1 + 2 num_frequencies), scaled to the horizon 2.

    Frequencies are multiples of a quarter turn over the horizon: an orbit need not be periodic in it.
    """

    frequencies: Tensor

    def __init__(self, num_frequencies: int) -> None:
        super().__init__()
        self.num_features = 1 + 2 * num_frequencies
        self.register_buffer("frequencies", math.pi / 4 * torch.arange(1, num_frequencies + 1), persistent=False)

    def forward(self, times_BT: Tensor) -> Tensor:
        phase_BTF = times_BT.unsqueeze(-1) * self.frequencies
        return torch.cat([times_BT.unsqueeze(-1) - 1.0, phase_BTF.sin(), phase_BTF.cos()], dim=-1)


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of the given widths with GELU between them, none after the last."""
    layers: list[Any] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])
