"""MambONet (arXiv 2410.20951): Mamba layers read V as a sequence; what they say of it answers each query time."""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .layers.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .layers.mamba import Mamba
from .layers.orbits import COARSE, AngleFeatures, BetweenSensors, Orbit, OrbitFinder
from .operator import Answer, mlp

_USUAL_RATE = 2.0 * math.pi / 2.0  # of a motion whose period is the horizon


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
            "orbit": "none",
            "published_layers": True,
            "hard_initial_condition": False,
        },
    }

    name: Literal["mambonet"] = "mambonet"
    num_mamba_layers: int = Field(default=4, ge=1)
    d_state: int = Field(default=16, ge=1, description="states of each Mamba channel")
    orbit: Literal["none", "angle", "state", "solved"] = Field(
        default="solved",
        description="correct V between the sensors and solve for the orbit, without a decoder; or read, beside V and t, "
        "the speed and the angle that energy conservation gives; or also the q and p",
    )
    num_shapes: int = Field(default=8, ge=1, description="coefficients of the correction of V in each interval, where the orbit is solved")
    exact_sensors: bool = Field(
        default=True, description="if false, the sensors are corrected too where the orbit is solved; by attention noise costs less"
    )

    @model_validator(mode="after")
    def _published_layers_read_v_alone(self) -> Any:
        if self.published_layers and self.orbit != "none":
            raise ValueError(f"orbit is {self.orbit!r}; it must be 'none' with published_layers, which read V and t alone")
        return self

    @property
    def has_decoder(self) -> bool:
        return self.orbit != "solved"


class MambONet(EncoderDecoder):
    """Published: V alone is embedded, every layer scans from the left, and cross-attention answers.

    Ours: V with its position, both ways, to say what V is between the sensors, which is all that they leave open: the orbit
    follows from conservation of energy, in closed form for all times (see `orbits`). Decoder sizes then mean nothing.

    Or, with `orbit` "angle" or "state", attention answers here too and is told what conservation of energy says of V as read:
    each sensor carries the particle's speed there and the angle of the motion at which it passes, each query the angle at its
    time, so that to answer is to find the sensors whose angle is that of the query; with "state" also q and p there.
    """

    Config = MambONetConfig
    sensors: Tensor

    def __init__(self, config: MambONetConfig) -> None:
        super().__init__(config)
        width, self.both_ways = config.d_model, not config.published_layers
        num_inputs = 2 if self.both_ways else 1
        self.solves_orbit, self.reads_state = config.orbit == "solved", config.orbit == "state"
        self.reads_angle = self.reads_state or config.orbit == "angle"
        if self.solves_orbit:
            self.between_sensors = BetweenSensors(config.num_sensors, width, config.num_shapes, config.exact_sensors)
            self.find_orbit = OrbitFinder(config.num_sensors)
        elif self.reads_angle:
            self.find_orbit = OrbitFinder(config.num_sensors, None if self.reads_state else COARSE)
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
        in_units_BS = potential_BS * self.potential_scale + self.potential_mean
        if self.solves_orbit:
            told_BT2 = self.find_orbit(in_units_BS, initial_B2, self.between_sensors(self.encode(potential_BS))).state_at(times_BT)
            return Answer(told_BT2.new_zeros(()), told_BT2.new_zeros(()), told_BT2)
        query_UTM = self.embed_query(times_BT, initial_B2)
        if not self.reads_angle:
            return self.decode(query_UTM, self.encode(potential_BS))
        orbit = self.find_orbit(in_units_BS, initial_B2)
        features_BTF = self.orbit_features(orbit.angle_at(times_BT), orbit.rate, orbit.state_at(times_BT) if self.reads_state else None)
        return self.decode(query_UTM + self.embed_orbit(features_BTF), self.encode(potential_BS, orbit))

    def told(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> Tensor | None:
        if not (self.solves_orbit or self.reads_state):
            return None
        return self.find_orbit(potential_BS, initial_B2).state_at(times_BT)

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
