"""DeepONet (Lu et al., arXiv 1910.03193): a branch reads the fields, a trunk reads t, and the prediction is their product.

Shapes: B batch, U rows that may differ (1 where all rows share the times, else B), T query times, d degrees of freedom,
K = 2d components of a state, P products summed for each.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .layers.basics import TimeFeatures, distinct_rows, mlp
from .operator import DirectConfig, DirectOperator, with_near
from .task import Task


class DeepONetConfig(DirectConfig):
    # The paper says three layers of 128. The code that made its figures built one hidden layer of 128 * (3 - 1) = 256.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "published": {"width": 256, "num_layers": 1, "num_channels": 10, "num_frequencies": 0, "hard_initial_condition": False},
    }

    name: Literal["deeponet"] = "deeponet"
    width: int = Field(default=256, ge=1, description="neurons of each hidden layer")
    num_layers: int = Field(default=3, ge=1, description="hidden layers of branch and of trunk")
    num_channels: int = Field(default=64, ge=1, description="products summed for each component of the state")
    num_frequencies: int = Field(default=16, ge=0, description="sine and cosine pairs of t read by the trunk")


class DeepONet(DirectOperator):
    """The branch also reads the initial state. With a window there are many to each field, and the trunk reads them instead.

    With patches, the branch first reads each of them by the same layer, as a strided convolution does.
    """

    Config = DeepONetConfig
    config: DeepONetConfig

    def __init__(self, config: DeepONetConfig, task: Task) -> None:
        super().__init__(config, task)
        hidden, self.state_size = [config.width] * config.num_layers, 2 * task.degrees_of_freedom
        num_outputs = self.state_size * config.num_channels
        self.time_features = TimeFeatures(config.num_frequencies, self.reach)
        features_of_time = self.time_features.num_features
        num_inputs = self.patches.channels
        if config.patch_size > 1:
            num_inputs = config.num_channels
            self.embed_patch = nn.Sequential(nn.Linear(self.patches.channels, num_inputs), nn.GELU())
        num_inputs *= self.patches.num_sensors
        if config.window is None:
            num_inputs += self.state_size
        else:
            features_of_time += self.num_state_features
        self.branch = mlp([num_inputs, *hidden, num_outputs])
        self.trunk = mlp([features_of_time, *hidden, num_outputs])
        self.bias = nn.Parameter(torch.zeros(self.state_size))

    def read(self, patches: Tensor, initial_BK: Tensor) -> tuple[Any, Tensor]:
        if self.config.patch_size > 1:
            patches = self.embed_patch(self.patches.as_sequence(patches))
        inputs = [patches.flatten(1)]
        if self.window is None:
            inputs.append(initial_BK)
        return self.branch(torch.cat(inputs, dim=-1)).unflatten(-1, (self.state_size, -1)), patches.new_zeros(())

    def free_part(self, memory: Any, times_BT: Tensor, initial: Tensor, near: Tensor | None) -> Tensor:
        branch_BKP, inputs_UTF = memory, self.time_features(distinct_rows(times_BT))
        if self.window is not None:
            rows, times = len(branch_BKP), times_BT.shape[1]
            inputs_UTF = torch.cat([inputs_UTF.expand(rows, -1, -1), with_near(initial, near).expand(rows, times, -1)], dim=-1)
        trunk_UTKP = self.trunk(inputs_UTF).unflatten(-1, (self.state_size, -1))
        return torch.einsum("bkp,btkp->btk", branch_BKP, trunk_UTKP) / branch_BKP.shape[-1] ** 0.5 + self.bias


ARCHITECTURE = DeepONet
