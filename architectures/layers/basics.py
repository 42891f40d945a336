"""Small parts of many networks: features of time, plain layers, and rows that a batch shares.

Shapes: B batch, U rows that may differ (1 where all rows share them, else B), T query times, F time features.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self

import numpy as np
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


class Float64Constants(nn.Module):
    """Tensors that remain in float64 whatever the type of the network that holds them, and follow it to its device. Not saved."""

    def __init__(self, **arrays: np.ndarray) -> None:
        super().__init__()
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(array, dtype=np.float64)), persistent=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for name, buffer in self.named_buffers():
            setattr(self, name, buffer.to(fn(buffer).device))
        return self


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of the given widths with GELU between them, none after the last."""
    layers: list[Any] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])
