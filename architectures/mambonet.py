"""MambONet (arXiv 2410.20951): Mamba layers read V as a sequence, cross-attention answers each query time."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from .mamba import Mamba
from .operator import ArchitectureConfig, Operator, TimeFeatures, mlp


class MambONetConfig(ArchitectureConfig):
    name: Literal["mambonet"] = "mambonet"
    d_model: int = Field(default=64, ge=1, description="width of every layer")
    num_mamba_layers: int = Field(default=4, ge=1)
    d_state: int = Field(default=16, ge=1, description="states of each Mamba channel")
    num_heads: int = Field(default=8, ge=1)
    num_decoder_layers: int = Field(default=3, ge=1)
    d_feedforward: int = Field(default=512, ge=1)
    num_frequencies: int = Field(default=16, ge=0, description="sine and cosine pairs of t in a query")


class MambONet(Operator):
    """Queries see the potential and never each other, so an answer depends on V, (q0, p0) and its own t alone."""

    Config = MambONetConfig
    sensors: Tensor

    def __init__(self, config: MambONetConfig) -> None:
        super().__init__(config)
        width = config.d_model
        self.embed_sensor = nn.Linear(2, width)
        self.encoder = nn.ModuleList(MambaLayer(width, config.d_state) for _ in range(config.num_mamba_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.time_features = TimeFeatures(config.num_frequencies)
        self.embed_query = mlp([self.time_features.num_features + 2, width, width])
        self.decoder = nn.ModuleList(
            CrossAttentionLayer(width, config.num_heads, config.d_feedforward) for _ in range(config.num_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)
        self.register_buffer("sensors", torch.linspace(-1.0, 1.0, config.num_sensors), persistent=False)

    def answer(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> tuple[Tensor, Tensor]:
        memory_BSM = self.embed_sensor(torch.stack([potential_BS, self.sensors.expand_as(potential_BS)], dim=-1))
        for index, layer in enumerate(self.encoder):
            # A scan is causal; every other layer reads from the right wall, so each sensor sees both sides.
            memory_BSM = layer(memory_BSM) if index % 2 == 0 else layer(memory_BSM.flip(1)).flip(1)
        memory_BSM = self.encoder_norm(memory_BSM)
        initial_BT2 = initial_B2.unsqueeze(1).expand(-1, times_BT.shape[1], -1)
        query_BTM = self.embed_query(torch.cat([self.time_features(times_BT), initial_BT2], dim=-1))
        for layer in self.decoder:
            query_BTM = layer(query_BTM, memory_BSM)
        return self.head(self.decoder_norm(query_BTM)), query_BTM.new_zeros(())


class MambaLayer(nn.Module):
    """Pre-norm residual Mamba, (B, L, M) -> (B, L, M)."""

    def __init__(self, width: int, d_state: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixer = Mamba(width, d_state=d_state)

    def forward(self, x_BLM: Tensor) -> Tensor:
        return x_BLM + self.mixer(self.norm(x_BLM))


class CrossAttentionLayer(nn.Module):
    """Pre-norm cross-attention and feed-forward, queries (B, T, M) and memory (B, S, M) -> (B, T, M)."""

    def __init__(self, width: int, num_heads: int, d_feedforward: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"d_model is {width}; it must be a multiple of num_heads, {num_heads}")
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = mlp([width, d_feedforward, width])

    def forward(self, x_BTM: Tensor, memory_BSM: Tensor) -> Tensor:
        query = self._heads(self.query(self.attention_norm(x_BTM)))
        key, value = (self._heads(part) for part in self.key_value(memory_BSM).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x_BTM = x_BTM + self.project(attended)
        return x_BTM + self.feedforward(self.feedforward_norm(x_BTM))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
