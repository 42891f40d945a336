"""OrbitNet: Mamba layers predict V between the sensors, and the orbit follows by quadrature.

For a particle of unit mass in one dimension, H = p^2/2 + V(q), V between the sensors is all that the sensors leave open. Given
V, conservation of energy determines the orbit for all query times at once (see `layers.orbit_quadrature`).

Shapes: B batch, S sensors, T query times, M width, G points of the fine grid.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .layers.mamba import BidirectionalMamba
from .layers.orbit_quadrature import CorrectionBetweenSensors, OrbitFinder
from .operator import ArchitectureConfig, Operator, OperatorOutput, needs_one_coordinate
from .task import Task


class OrbitNetConfig(ArchitectureConfig):
    name: Literal["orbitnet"] = "orbitnet"
    d_model: int = Field(default=64, ge=1, description="width of every layer")
    num_mamba_layers: int = Field(default=4, ge=1)
    d_state: int = Field(default=16, ge=1, description="states of each Mamba channel")
    num_shapes: int = Field(default=8, ge=1, description="coefficients of the correction of V in each interval between sensors")
    exact_sensors: bool = Field(
        default=True, description="if false, V at the sensors is corrected too; mambonet with phase_angle handles noise better"
    )

    @property
    def built_in(self) -> str:
        return "the orbit, by conservation of energy and a quadrature, in the V that it predicts"


class OrbitNet(Operator):
    """An untrained network predicts the quadrature baseline: the orbit in V interpolated by local polynomials."""

    Config = OrbitNetConfig
    config: OrbitNetConfig
    sensors: Tensor

    @classmethod
    def why_not(cls, config: ArchitectureConfig, task: Task) -> str | None:
        return needs_one_coordinate("orbitnet", task, max_channels=1)

    def __init__(self, config: OrbitNetConfig, task: Task) -> None:
        super().__init__(config, task)
        width = config.d_model
        self.between_sensors = CorrectionBetweenSensors(task.num_sensors, width, config.num_shapes, config.exact_sensors)
        self.find_orbit = OrbitFinder(task)
        self.embed_sensor = nn.Linear(2, width)
        self.encoder = BidirectionalMamba(config.num_mamba_layers, width, config.d_state, task.sensors)
        self.encoder_norm = nn.LayerNorm(width)
        self.register_buffer("sensors", task.sensor_positions(-1.0, 1.0), persistent=False)

    def predict(self, fields: Tensor, times_BT: Tensor, initial_BK: Tensor) -> OperatorOutput:
        normalised_BS = self.normalise(fields)
        # Shipped weights were trained with V rounded on its way to normalised values and back.
        potential_BS = normalised_BS * self.potential_scale + self.potential_mean
        orbit = self.find_orbit(potential_BS, initial_BK, self.between_sensors(self.encode(normalised_BS)))
        orbit_BT2 = orbit.state_at(times_BT)
        # The quadrature returns the initial state but for rounding.
        exact_BT2 = torch.where(times_BT.unsqueeze(-1) == 0.0, initial_BK.unsqueeze(1), orbit_BT2)
        return self.output(exact_BT2, exact_BT2.new_zeros(()))

    def encode(self, normalised_BS: Tensor) -> Tensor:
        """The memory (B, S, M) of a normalised potential."""
        inputs_BS2 = torch.cat([normalised_BS.unsqueeze(-1), self.sensors.expand(len(normalised_BS), -1, -1)], dim=-1)
        return self.encoder_norm(self.encoder(self.embed_sensor(inputs_BS2)))


ARCHITECTURE = OrbitNet
