"""DeepONet (Lu et al., arXiv 1910.03193): a branch reads V, a trunk reads t, their product answers.

Shapes: B batch, U rows that may differ (1 where all rows share the times, else B), S sensors, T query times, K channels.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .operator import Answer, ArchitectureConfig, Operator, TimeFeatures, distinct_rows, mlp


class DeepONetConfig(ArchitectureConfig):
    # The paper says three layers of 128. The code that made its figures built one hidden layer of 128 * (3 - 1) = 256.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"width": 256, "num_layers": 1, "num_channels": 10, "num_frequencies": 0, "hard_initial_condition": False},
    }

    name: Literal["deeponet"] = "deeponet"
    width: int = Field(default=256, ge=1, description="neurons of each hidden layer")
    num_layers: int = Field(default=3, ge=1, description="hidden layers of branch and of trunk")
    num_channels: int = Field(default=64, ge=1, description="products summed for each of q and p")
    num_frequencies: int = Field(default=16, ge=0, description="sine and cosine pairs of t read by the trunk")


class DeepONet(Operator):
    Config = DeepONetConfig

    def __init__(self, config: DeepONetConfig) -> None:
        super().__init__(config)
        hidden = [config.width] * config.num_layers
        self.time_features = TimeFeatures(config.num_frequencies)
        self.branch = mlp([config.num_sensors + 2, *hidden, 2 * config.num_channels])
        self.trunk = mlp([self.time_features.num_features, *hidden, 2 * config.num_channels])
        self.bias = nn.Parameter(torch.zeros(2))

    def answer(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> Answer:
        branch_B2K = self.branch(torch.cat([potential_BS, initial_B2], dim=-1)).unflatten(-1, (2, -1))
        trunk_UT2K = self.trunk(self.time_features(distinct_rows(times_BT))).unflatten(-1, (2, -1))
        free_BT2 = torch.einsum("bok,btok->bto", branch_B2K, trunk_UT2K) / branch_B2K.shape[-1] ** 0.5
        return Answer(free_BT2 + self.bias, free_BT2.new_zeros(()))
