"""The layers that several architectures share.

Shapes: B batch, U rows that may differ (1 where all rows share them, else B), L sequence, S sensors, T query times,
M width, H heads.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..operator import TimeFeatures, distinct_rows, mlp
from .attention import attention

# Numbers of a hidden layer on a CPU without gradients: they stay in its cache, where a whole batch is fetched page by page.
_HIDDEN_AT_ONCE = 2**20


class SensorEmbedding(nn.Module):
    """V and where its sensor is, (B, S) -> (B, S, M). The part of the position is the same for every row."""

    features: Tensor

    def __init__(self, num_sensors: int, num_frequencies: int, width: int) -> None:
        super().__init__()
        time_features = TimeFeatures(num_frequencies)  # made for [0, 2]; q is in [0, 1]
        self.value = nn.Linear(1, width)
        self.position = nn.Linear(time_features.num_features, width)
        self.register_buffer("features", time_features(torch.linspace(0.0, 2.0, num_sensors)), persistent=False)

    def forward(self, potential_BS: Tensor) -> Tensor:
        return self.value(potential_BS.unsqueeze(-1)) + self.position(self.features)


class TimeQueries(nn.ModuleList):
    """Features of t and the initial state through an MLP of two layers, (B, T) and (B, 2) -> (U, T, M)."""

    features: TimeFeatures

    def __init__(self, num_frequencies: int, width: int) -> None:
        features = TimeFeatures(num_frequencies)
        super().__init__(mlp([features.num_features + 2, width, width]))
        self.features = features

    def forward(self, times_BT: Tensor, initial_B2: Tensor) -> Tensor:
        first, activation, second = cast(nn.Linear, self[0]), self[1], self[2]
        # The first layer is a sum over its inputs: the times' part is often shared by the batch, the state's by the times.
        weight_MF, weight_M2 = first.weight.split([self.features.num_features, 2], dim=1)
        times_UTM = F.linear(self.features(distinct_rows(times_BT)), weight_MF, first.bias)
        initial_UM = F.linear(distinct_rows(initial_B2), weight_M2)
        return second(activation(times_UTM + initial_UM.unsqueeze(1)))


class FeedForward(nn.Sequential):
    """A hidden layer of GELU at every position, (B, L, M) -> (B, L, M)."""

    def __init__(self, width: int, d_feedforward: int) -> None:
        super().__init__(*mlp([width, d_feedforward, width]))
        self.d_feedforward = d_feedforward

    def forward(self, input: Tensor) -> Tensor:
        x_BLM = input
        rows = max(1, _HIDDEN_AT_ONCE // max(1, x_BLM.shape[1] * self.d_feedforward))
        if torch.is_grad_enabled() or x_BLM.device.type != "cpu" or torch.compiler.is_compiling() or len(x_BLM) <= rows:
            return super().forward(x_BLM)
        return torch.cat([super(FeedForward, self).forward(part) for part in x_BLM.split(rows)])


class SelfAttentionLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, (B, L, M) -> (B, L, M)."""

    def __init__(self, width: int, num_heads: int, d_feedforward: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, d_feedforward)

    def forward(self, x_BLM: Tensor) -> Tensor:
        query_BLM, key_BLM, value_BLM = self.query_key_value(self.attention_norm(x_BLM)).chunk(3, dim=-1)
        x_BLM = x_BLM + self.project(attention(query_BLM, key_BLM, value_BLM, self.num_heads))
        return x_BLM + self.feedforward(self.feedforward_norm(x_BLM))


class CrossAttentionLayer(nn.Module):
    """Pre-norm cross-attention and feed-forward; `CrossAttentionDecoder` gives it the keys and values of the memory."""

    def __init__(self, width: int, num_heads: int, d_feedforward: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, d_feedforward)

    def forward(self, x_UTM: Tensor, key_BSM: Tensor, value_BSM: Tensor) -> Tensor:
        query_UTM = self.query(self.attention_norm(x_UTM))
        query_BTM = query_UTM.expand(key_BSM.shape[0], -1, -1)
        x_BTM = x_UTM + self.project(attention(query_BTM, key_BSM, value_BSM, self.num_heads))
        return x_BTM + self.feedforward(self.feedforward_norm(x_BTM))


class CrossAttentionDecoder(nn.ModuleList):
    """Queries (U, T, M) that see the memory (B, S, M) and never each other -> (B, T, M)."""

    def __init__(self, num_layers: int, width: int, num_heads: int, d_feedforward: int) -> None:
        super().__init__(CrossAttentionLayer(width, num_heads, d_feedforward) for _ in range(num_layers))

    def forward(self, query_UTM: Tensor, memory_BSM: Tensor) -> Tensor:
        # One matrix product makes the keys and values of all layers.
        projections = [cast(CrossAttentionLayer, layer).key_value for layer in self]
        weight, bias = torch.cat([linear.weight for linear in projections]), torch.cat([linear.bias for linear in projections])
        keys_values = F.linear(memory_BSM, weight, bias).chunk(2 * len(projections), dim=-1)
        for layer, key_BSM, value_BSM in zip(self, keys_values[::2], keys_values[1::2], strict=True):
            query_UTM = layer(query_UTM, key_BSM, value_BSM)
        return query_UTM


class IndexedEmbedding(nn.Module):
    """Values and their place in the list, as published: (B, L) -> (B, L, M).

    A linear map times sqrt(M) plus the sines and cosines of the index (Vaswani et al., arXiv 1706.03762, 3.5).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(1, width)

    def forward(self, values_BL: Tensor) -> Tensor:
        embedded_BLM = self.value(values_BL.unsqueeze(-1))
        width = embedded_BLM.shape[-1]
        return embedded_BLM * math.sqrt(width) + _index_positions(embedded_BLM.shape[-2], width, embedded_BLM)


class IndexedQueries(nn.Module):
    """Query times with their index, as published, and the initial state: (B, T) and (B, 2) -> (B, T, M).

    The state enters by a linear map without bias: from the only start the paper knows, (0, 0), it adds nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = IndexedEmbedding(width)
        self.initial = nn.Linear(2, width, bias=False)

    def forward(self, times_BT: Tensor, initial_B2: Tensor) -> Tensor:
        return self.embed(times_BT) + self.initial(initial_B2).unsqueeze(1)


def _index_positions(length: int, width: int, like: Tensor) -> Tensor:
    """(L, M): sin and cos of index / 10000^(k / M) for even k, interleaved."""
    index_L1 = torch.arange(length, dtype=like.dtype, device=like.device).unsqueeze(1)
    even_K = torch.arange(0, width, 2, dtype=like.dtype, device=like.device)
    phase_LK = index_L1 * torch.exp(even_K * (-math.log(10_000.0) / width))
    return torch.stack([phase_LK.sin(), phase_LK.cos()], dim=-1).flatten(1)[:, :width]
