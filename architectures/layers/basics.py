"""Small parts of many networks: features of time, plain layers, and rows that a batch shares.

Shapes: B batch, U rows that may differ (1 where all rows share them, else B), T query times, F time features.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def distinct_rows(x_BN: Tensor) -> Tensor:
    """(B, N) -> (U, N): the one row that all B share in memory, else all of them.

    Strides tell, so this neither reads the values nor waits for a GPU.
    """
    return x_BN[:1] if x_BN.stride(0) == 0 else x_BN


class TimeFeatures(nn.Module):
    """t and sines and cosines of it, (B, T) -> (B, T, 1 + 2 num_frequencies), scaled to the horizon.

    Frequencies are multiples of a quarter turn over the horizon: a motion need not be periodic in it.
    """

    frequencies: Tensor

    def __init__(self, num_frequencies: int, horizon: float) -> None:
        super().__init__()
        self.num_features = 1 + 2 * num_frequencies
        self._rate = 2.0 / horizon
        self.register_buffer("frequencies", math.pi / (2.0 * horizon) * torch.arange(1, num_frequencies + 1), persistent=False)

    def forward(self, times_BT: Tensor) -> Tensor:
        times_BT1 = times_BT.unsqueeze(-1)
        phase_BTF = times_BT1 * self.frequencies
        return torch.cat([times_BT1 * self._rate - 1.0, phase_BTF.sin(), phase_BTF.cos()], dim=-1)


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of the given widths with GELU between them, none after the last."""
    layers: list[Any] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])
