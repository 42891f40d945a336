"""Transformer layers, and the embeddings of sensors and of query times.

Shapes: B batch, U rows that may differ (1 where all rows share them, else B), L sequence of sensors, T query times,
C channels, d degrees of freedom, K = 2d components of a state, M width, H heads.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..task import Task
from .attention import attention
from .basics import TimeFeatures, distinct_rows, mlp

# Numbers of a hidden layer on a CPU without gradients: they stay in its cache, where a whole batch is fetched page by page.
_HIDDEN_AT_ONCE = 2**20


class SensorEmbedding(nn.Module):
    """The fields and where their sensor is, (B, L, C) -> (B, L, M). The part of the position is the same for every row."""

    features: Tensor

    def __init__(self, task: Task, num_frequencies: int, width: int) -> None:
        super().__init__()
        features = TimeFeatures(num_frequencies, horizon=2.0)  # of each coordinate, rescaled to [0, 2]
        self.value = nn.Linear(task.channels, width)
        self.position = nn.Linear(task.degrees_of_freedom * features.num_features, width)
        self.register_buffer("features", features(task.sensor_positions(0.0, 2.0)).flatten(1), persistent=False)

    def forward(self, fields_BLC: Tensor) -> Tensor:
        return self.value(fields_BLC) + self.position(self.features)


class TimeQueries(nn.ModuleList):
    """Features of t and of a state, (B, F) or one for each time, through an MLP of two layers, (B, T) and (B, F) -> (U, T, M)."""

    features: TimeFeatures

    def __init__(self, features: TimeFeatures, state_size: int, width: int) -> None:
        super().__init__(mlp([features.num_features + state_size, width, width]))
        self.features, self.state_size = features, state_size

    def forward(self, times_BT: Tensor, state: Tensor) -> Tensor:
        first, activation, second = cast(nn.Linear, self[0]), self[1], self[2]
        # The first layer is a sum over its inputs: the times' part is often shared by the batch, the state's by the times.
        weight_MF, weight_MK = first.weight.split([self.features.num_features, self.state_size], dim=1)
        times_UTM = F.linear(self.features(distinct_rows(times_BT)), weight_MF, first.bias)
        if state.ndim == 2:
            state = distinct_rows(state).unsqueeze(1)
        return second(activation(times_UTM + F.linear(state, weight_MK)))


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
    """Values and their index in the sequence, as published: (B, L, C) -> (B, L, M).

    A linear map times sqrt(M) plus the sines and cosines of the index (Vaswani et al., arXiv 1706.03762, 3.5).
    """

    def __init__(self, width: int, channels: int = 1) -> None:
        super().__init__()
        self.value = nn.Linear(channels, width)

    def forward(self, values_BLC: Tensor) -> Tensor:
        embedded_BLM = self.value(values_BLC)
        width = embedded_BLM.shape[-1]
        return embedded_BLM * math.sqrt(width) + _index_positions(embedded_BLM.shape[-2], width, embedded_BLM)


class IndexedQueries(nn.Module):
    """Query times with their index, as published, and the initial state: (B, T) and (B, 2d) -> (B, T, M).

    The state enters by a linear map without bias. From (0, 0), the only initial state in the paper, it adds nothing.
    """

    def __init__(self, width: int, degrees_of_freedom: int = 1) -> None:
        super().__init__()
        self.embed = IndexedEmbedding(width)
        self.initial = nn.Linear(2 * degrees_of_freedom, width, bias=False)

    def forward(self, times_BT: Tensor, initial_BK: Tensor) -> Tensor:
        return self.embed(times_BT.unsqueeze(-1)) + self.initial(initial_BK).unsqueeze(1)


def _index_positions(length: int, width: int, like: Tensor) -> Tensor:
    """(L, M): sin and cos of index / 10000^(k / M) for even k, interleaved."""
    index_L1 = torch.arange(length, dtype=like.dtype, device=like.device).unsqueeze(1)
    even_K = torch.arange(0, width, 2, dtype=like.dtype, device=like.device)
    phase_LK = index_L1 * torch.exp(even_K * (-math.log(10_000.0) / width))
    return torch.stack([phase_LK.sin(), phase_LK.cos()], dim=-1).flatten(1)[:, :width]
