"""MambONet (arXiv 2410.20951): Mamba layers read the fields as a sequence, and the query times attend to it.

Shapes: B batch, L sequence of sensors, T query times, C channels, d degrees of freedom, K = 2d components of a state, F features.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .layers.basics import mlp
from .layers.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .layers.mamba import BidirectionalMamba, MambaLayer
from .layers.orbit_quadrature import COARSE, AngleFeatures, Orbit, OrbitFinder
from .operator import ArchitectureConfig, needs_one_coordinate
from .task import Task


class MambONetConfig(EncoderDecoderConfig):
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "published": {
            "d_model": 128,
            "num_mamba_layers": 4,
            "d_state": 16,
            "num_heads": 4,
            "num_decoder_layers": 4,
            "d_feedforward": 1024,
            "published_layers": True,
            "hard_initial_condition": False,
        },
    }

    name: Literal["mambonet"] = "mambonet"
    num_mamba_layers: int = Field(default=4, ge=1)
    d_state: int = Field(default=16, ge=1, description="states of each Mamba channel")
    phase_angle: bool = Field(
        default=False,
        description="give the sensors and queries also the phase angle of the motion and the speed, from conservation of energy; "
        "for one degree of freedom with unit mass",
    )

    @property
    def built_in(self) -> str | None:
        return "the phase angle of the orbit, by conservation of energy and a quadrature" if self.phase_angle else super().built_in

    @model_validator(mode="after")
    def _the_phase_angle_fits(self) -> Any:
        if self.published_layers and self.phase_angle:
            raise ValueError("phase_angle is true; it must be false with published_layers, which read V and t alone")
        if self.window is not None and self.phase_angle:
            raise ValueError(f"window is {self.window}; it must be null with phase_angle, which belongs to one initial state")
        if self.patch_size > 1 and self.phase_angle:
            raise ValueError(f"patch_size is {self.patch_size}; it must be 1 with phase_angle, which every sensor has of its own")
        if self.local_memory and self.phase_angle:
            raise ValueError("local_memory is true; with phase_angle, attention finds the sensors that matter to a query")
        return self


class MambONet(EncoderDecoder):
    """Each layer of the default network scans the sensors from one side, in turn, and reads each sensor's position.

    The published network embeds V alone and scans from the left in every layer.

    With `phase_angle`, each sensor also carries the particle's speed there and the angle of the motion at which it passes; each
    query carries the angle at its time and the rate of the motion. Attention then finds the sensors whose angle is the query's.
    """

    Config = MambONetConfig
    config: MambONetConfig
    sensors: Tensor

    @classmethod
    def why_not(cls, config: ArchitectureConfig, task: Task) -> str | None:
        assert isinstance(config, MambONetConfig)
        reason = needs_one_coordinate("mambonet with phase_angle", task, max_channels=1) if config.phase_angle else None
        return reason or super().why_not(config, task)

    def __init__(self, config: MambONetConfig, task: Task) -> None:
        super().__init__(config, task)
        width, num_layers = config.d_model, config.num_mamba_layers
        patches = self.patches
        places_Ld = patches.sensor_positions(-1.0, 1.0)
        num_inputs = patches.channels if config.published_layers else patches.channels + places_Ld.shape[1]
        if config.phase_angle:
            self.find_orbit = OrbitFinder(task, COARSE)
            self.angle_features = AngleFeatures(max(1, config.num_frequencies))
            self.embed_orbit = mlp([self.angle_features.num_features + 1, width, width])
            num_inputs += 1 + self.angle_features.num_features
        self.embed_sensor = nn.Linear(num_inputs, width)
        if config.published_layers:
            self.encoder = nn.Sequential(*(MambaLayer(width, config.d_state, _RMSNorm) for _ in range(num_layers)))
            self.encoder_norm = nn.Identity()
        else:
            self.encoder = BidirectionalMamba(num_layers, width, config.d_state, patches.sensors)
            self.encoder_norm = nn.LayerNorm(width)
        self.register_buffer("sensors", places_Ld, persistent=False)

    def read(self, patches: Tensor, initial_BK: Tensor) -> tuple[Any, Tensor]:
        if not self.config.phase_angle:
            return super().read(patches, initial_BK)
        orbit = self.find_orbit(patches * self.potential_scale + self.potential_mean, initial_BK)
        memory_BLM = self.encode(patches, orbit)
        return (memory_BLM, orbit), memory_BLM.new_zeros(())

    def free_part(self, memory: Any, times_BT: Tensor, initial: Tensor, near: Tensor | None) -> Tensor:
        if not self.config.phase_angle:
            return super().free_part(memory, times_BT, initial, near)
        memory_BLM, orbit = memory
        features_BTF = self.orbit_features(orbit.angle_at(times_BT), orbit.rate)
        query_UTM = self.embed_query(times_BT, initial)
        return self.decode(query_UTM + self.embed_orbit(features_BTF), memory_BLM)

    def orbit_features(self, angle_BT: Tensor, rate_B1: Tensor) -> Tensor:
        """What a query carries of the orbit, (B, T, F): its angle, and the rate relative to one period over the horizon."""
        pace_B1 = (rate_B1 / (2.0 * math.pi / self.task.horizon)).log()
        return torch.cat([self.angle_features(angle_BT), pace_B1.expand_as(angle_BT).unsqueeze(-1)], dim=-1)

    def encode(self, patches: Tensor, orbit: Orbit | None = None) -> Tensor:
        inputs = [self.patches.as_sequence(patches)]
        if not self.config.published_layers:
            inputs.append(self.sensors.expand(len(patches), -1, -1))
        if orbit is not None:
            inputs += [orbit.speed.unsqueeze(-1) - 1.0, self.angle_features(orbit.angle)]
        return self.encoder_norm(self.encoder(self.embed_sensor(torch.cat(inputs, dim=-1))))


class _RMSNorm(nn.RMSNorm):
    """As in the published encoder, which adds 1e-5 to the mean square where PyTorch would add the dtype's epsilon."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-5)


ARCHITECTURE = MambONet
