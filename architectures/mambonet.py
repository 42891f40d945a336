"""MambONet (arXiv 2410.20951): Mamba layers read V as a sequence, cross-attention answers each query time."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .mamba import Mamba


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
            "published_layers": True,
            "hard_initial_condition": False,
        },
    }

    name: Literal["mambonet"] = "mambonet"
    num_mamba_layers: int = Field(default=4, ge=1)
    d_state: int = Field(default=16, ge=1, description="states of each Mamba channel")


class MambONet(EncoderDecoder):
    """Published: V alone is embedded and every layer scans from the left. Ours: V with its position, and both ways."""

    Config = MambONetConfig
    sensors: Tensor

    def __init__(self, config: MambONetConfig) -> None:
        super().__init__(config)
        width, self.both_ways = config.d_model, not config.published_layers
        self.embed_sensor = nn.Linear(2 if self.both_ways else 1, width)
        layers = (MambaLayer(width, config.d_state, nn.LayerNorm if self.both_ways else _RMSNorm) for _ in range(config.num_mamba_layers))
        self.encoder = nn.ModuleList(layers)
        self.encoder_norm = nn.LayerNorm(width) if self.both_ways else nn.Identity()
        self.register_buffer("sensors", torch.linspace(-1.0, 1.0, config.num_sensors), persistent=False)

    def encode(self, potential_BS: Tensor) -> Tensor:
        inputs = [potential_BS, self.sensors.expand_as(potential_BS)] if self.both_ways else [potential_BS]
        memory_BSM = self.embed_sensor(torch.stack(inputs, dim=-1))
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
