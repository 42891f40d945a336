"""A Mamba block whose parameters have the names and shapes of `mamba_ssm.modules.mamba_simple.Mamba`, and stacks of it.

Shapes: B batch, L sequence, M width, D inner channels, N states.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..selective_scan import causal_convolution, selective_scan

_DELTA_MIN, _DELTA_MAX = 1e-3, 1e-1  # initial range of the step sizes, log-uniform (arXiv 2312.00752, 3.6)


class Mamba(nn.Module):
    """Selective state-space mixing of a sequence, (B, L, d_model) -> (B, L, d_model).

    A state dict moves unchanged to and from `mamba_ssm`'s block of the same sizes.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        d_inner = expand * d_model
        dt_rank = math.ceil(d_model / 16)
        self._splits = (dt_rank, d_state, d_state)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self._initialise_delta()

    @torch.no_grad()
    def _initialise_delta(self) -> None:
        """Give softplus(dt_proj.bias) its log-uniform initial range."""
        bound = self.dt_proj.in_features**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(_DELTA_MIN), math.log(_DELTA_MAX)
        delta = torch.exp(torch.empty_like(self.dt_proj.bias).uniform_(low, high)).clamp(min=1e-4)
        self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus

    def forward(self, u_BLM: Tensor) -> Tensor:
        # Two products, not one and a split: what the kernels read is then contiguous, and so are the gradients.
        weight_x, weight_gate = self.in_proj.weight.chunk(2)
        x_BLD = causal_convolution(F.linear(u_BLM, weight_x), self.conv1d.weight.squeeze(1), cast(Tensor, self.conv1d.bias))
        rank_BLR, B_BLN, C_BLN = self.x_proj(x_BLD).split(self._splits, dim=-1)
        delta_BLD = self.dt_proj(rank_BLR)
        gate_BLD = F.linear(u_BLM, weight_gate)
        y_BLD = selective_scan(x_BLD, delta_BLD, -torch.exp(self.A_log), B_BLN, C_BLN, self.D, gate_BLD, delta_softplus=True)
        return self.out_proj(y_BLD)


class MambaLayer(nn.Module):
    """Pre-norm residual Mamba, (B, L, M) -> (B, L, M)."""

    def __init__(self, width: int, d_state: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(width)
        self.mixer = Mamba(width, d_state=d_state, d_conv=4, expand=2)

    def forward(self, x_BLM: Tensor) -> Tensor:
        return x_BLM + self.mixer(self.norm(x_BLM))


class BidirectionalMamba(nn.ModuleList):
    """Mamba layers that scan a grid of sensors cell by cell, (B, L, M) -> (B, L, M), the last coordinate running fastest.

    A scan is causal. Every other layer scans from the far end, so that each sensor sees both sides; on a grid of more than one
    coordinate, each pair of layers takes the next coordinate as the one that runs fastest.
    """

    def __init__(self, num_layers: int, width: int, d_state: int, sensors: tuple[int, ...]) -> None:
        super().__init__(MambaLayer(width, d_state) for _ in range(num_layers))
        self._sensors = sensors

    def forward(self, x_BLM: Tensor) -> Tensor:
        sizes, axes = self._sensors, len(self._sensors)
        for index, layer in enumerate(self):
            turn = index // 2 % axes
            x_BLM = _roll_axes(x_BLM, sizes, turn)
            x_BLM = layer(x_BLM.flip(1)).flip(1) if index % 2 == 1 else layer(x_BLM)
            x_BLM = _roll_axes(x_BLM, sizes[-turn:] + sizes[:-turn], (axes - turn) % axes)
        return x_BLM


def _roll_axes(x_BLM: Tensor, sizes: tuple[int, ...], turn: int) -> Tensor:
    """The cells of a grid of `sizes` reordered as if its axes were rolled to the right by `turn`."""
    if turn == 0:
        return x_BLM
    axes = range(1, len(sizes) + 1)
    return x_BLM.unflatten(1, sizes).permute(0, *axes[-turn:], *axes[:-turn], len(sizes) + 1).flatten(1, -2)


def uses_scan(network: nn.Module) -> bool:
    """Whether the speed of `network` depends on the backend of the selective scan."""
    return any(isinstance(module, Mamba) for module in network.modules())
