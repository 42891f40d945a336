"""MambONet (arXiv 2410.20951): Mamba layers read V as a sequence, cross-attention answers each query time."""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .mamba import Mamba
from .operator import Answer, mlp
from .orbits import COARSE, FINE, AngleFeatures, Orbit, OrbitFinder

_USUAL_RATE = 2.0 * math.pi / 2.0  # of a motion whose period is the horizon
_CORRECTION = 0.1  # the size of one, of which saved networks hold no copy; 0.3 learns as well, 0.01 ends at twice the loss


class MambONetConfig(EncoderDecoderConfig):
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {
            "d_model": 128,
            "num_mamba_layers": 4,
            "d_state": 16,
            "num_heads": 4,
            "num_decoder_layers": 4,
            "d_feedforward": 1024,
            "num_frequencies": 0,
            "orbit_inputs": "none",
            "published_layers": True,
            "hard_initial_condition": False,
        },
    }

    name: Literal["mambonet"] = "mambonet"
    num_mamba_layers: int = Field(default=4, ge=1)
    d_state: int = Field(default=16, ge=1, description="states of each Mamba channel")
    orbit_inputs: Literal["none", "angle", "state", "residual"] = Field(
        default="residual",
        description="read, beside V and t, the speed and the angle that energy conservation gives; or also the q and p; or correct these",
    )

    @model_validator(mode="after")
    def _published_layers_read_v_alone(self) -> Any:
        if self.published_layers and self.orbit_inputs != "none":
            raise ValueError(f"orbit_inputs is {self.orbit_inputs!r}; it must be 'none' with published_layers, which read V and t alone")
        return self


class MambONet(EncoderDecoder):
    """Published: V alone is embedded and every layer scans from the left.

    Ours: V with its position, both ways. And with `orbit_inputs`, what conservation of energy says of the orbit (see
    `orbits`): each sensor carries the particle's speed there and the angle of the motion at which it passes, each query the
    angle at its time, so that to answer is to find the sensors whose angle is that of the query, and to correct it. Each query
    also carries the q and p that the quadrature reads off there, unless `orbit_inputs` is "angle"; where it is "residual", the
    network answers with a correction of these.
    """

    Config = MambONetConfig
    sensors: Tensor

    def __init__(self, config: MambONetConfig) -> None:
        super().__init__(config)
        width, self.both_ways = config.d_model, not config.published_layers
        num_inputs = 2 if self.both_ways else 1
        self.corrects_state = config.orbit_inputs == "residual"
        self.reads_state = self.corrects_state or config.orbit_inputs == "state"
        fineness = FINE if self.reads_state else COARSE
        self.find_orbit = OrbitFinder(config.num_sensors, fineness) if config.orbit_inputs != "none" else None
        if config.orbit_inputs != "none":
            self.angle_features = AngleFeatures(max(1, config.num_frequencies))
            num_features = self.angle_features.num_features + (3 if self.reads_state else 1)
            self.embed_orbit = mlp([num_features, width, width])
            num_inputs += 1 + self.angle_features.num_features
        self.embed_sensor = nn.Linear(num_inputs, width)
        layers = (MambaLayer(width, config.d_state, nn.LayerNorm if self.both_ways else _RMSNorm) for _ in range(config.num_mamba_layers))
        self.encoder = nn.ModuleList(layers)
        self.encoder_norm = nn.LayerNorm(width) if self.both_ways else nn.Identity()
        self.register_buffer("sensors", torch.linspace(-1.0, 1.0, config.num_sensors), persistent=False)

    def answer(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> Answer:
        query_UTM = self.embed_query(times_BT, initial_B2)
        if self.find_orbit is None:
            return self.decode(query_UTM, self.encode(potential_BS))
        orbit = self.find_orbit(potential_BS * self.potential_scale + self.potential_mean, initial_B2)
        told_BT2 = orbit.state_at(times_BT) if self.reads_state else None
        features_BTF = self.orbit_features(orbit.angle_at(times_BT), orbit.rate, told_BT2)
        answer = self.decode(query_UTM + self.embed_orbit(features_BTF), self.encode(potential_BS, orbit))
        return answer._replace(free=_CORRECTION * answer.free, told=told_BT2) if self.corrects_state else answer

    def told(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> Tensor | None:
        return self.find_orbit(potential_BS, initial_B2).state_at(times_BT) if self.find_orbit and self.reads_state else None

    def orbit_features(self, angle_BT: Tensor, rate_B1: Tensor, told_BT2: Tensor | None) -> Tensor:
        """What a query carries of the orbit, (B, T, F)."""
        pace_B1 = (rate_B1 / _USUAL_RATE).log()
        features = [self.angle_features(angle_BT), pace_B1.expand_as(angle_BT).unsqueeze(-1)]
        if told_BT2 is not None:
            q_BT1, p_BT1 = told_BT2.split(1, dim=-1)
            features += [2.0 * q_BT1 - 1.0, p_BT1]
        return torch.cat(features, dim=-1)

    def encode(self, potential_BS: Tensor, orbit: Orbit | None = None) -> Tensor:
        inputs = [potential_BS.unsqueeze(-1)]
        if self.both_ways:
            inputs.append(self.sensors.expand_as(potential_BS).unsqueeze(-1))
        if orbit is not None:
            inputs += [orbit.speed.unsqueeze(-1) - 1.0, self.angle_features(orbit.angle)]
        memory_BSM = self.embed_sensor(torch.cat(inputs, dim=-1))
        for index, layer in enumerate(self.encoder):
            # A scan is causal; every other layer reads from the right wall, so each sensor sees both sides.
            backwards = self.both_ways and index % 2 == 1
            memory_BSM = layer(memory_BSM.flip(1)).flip(1) if backwards else layer(memory_BSM)
        return self.encoder_norm(memory_BSM)


class MambaLayer(nn.Module):
    """Pre-norm residual Mamba, (B, L, M) -> (B, L, M)."""

    def __init__(self, width: int, d_state: int, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(width)
        self.mixer = Mamba(width, d_state=d_state, d_conv=4, expand=2)

    def forward(self, x_BLM: Tensor) -> Tensor:
        return x_BLM + self.mixer(self.norm(x_BLM))


class _RMSNorm(nn.RMSNorm):
    """As in the published encoder, which adds 1e-5 to the mean square where PyTorch would add the dtype's epsilon."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-5)
