"""FNO: Fourier layers (Li et al., arXiv 2010.08895) read V as a function of q, and the query times attend to it.

Shapes: B batch, S sensors, K modes, M width.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from .layers.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .layers.transformer import SensorEmbedding
from .operator import ArchitectureConfig, needs_one_coordinate
from .task import Task


class FNOConfig(EncoderDecoderConfig):
    # The paper has no FNO; `published` is the configuration its authors' code settled on later (version 1.33).
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "published": {
            "d_model": 128,
            "num_fourier_layers": 3,
            "num_modes": 16,
            "padding": 0.0,
            "num_heads": 16,
            "num_decoder_layers": 2,
            "d_feedforward": 128,
            "published_layers": True,
            "hard_initial_condition": False,
        },
    }

    name: Literal["fno"] = "fno"
    num_fourier_layers: int = Field(default=4, ge=1)
    num_modes: int = Field(
        default=24, ge=1, description="lowest Fourier modes that each layer mixes; all of them where the sensors carry fewer"
    )
    padding: float = Field(
        default=0.25, ge=0, le=1, description="zeros beyond the last sensor, as a fraction of the domain: V is not periodic"
    )


class FNO(EncoderDecoder):
    """The Fourier layers are one-dimensional: fields along one coordinate, of any number of channels."""

    Config = FNOConfig

    @classmethod
    def why_not(cls, config: ArchitectureConfig, task: Task) -> str | None:
        return needs_one_coordinate("fno", task) or super().why_not(config, task)

    def __init__(self, config: FNOConfig, task: Task) -> None:
        super().__init__(config, task)
        width, num_sensors = config.d_model, task.num_sensors
        if config.published_layers:
            self.embed_sensor = nn.Sequential(nn.Identity(), nn.Linear(task.channels, width))  # saved weights call the layer 1
        else:
            self.embed_sensor = SensorEmbedding(task, config.num_frequencies, width)
        period = round(num_sensors * (1 + config.padding))
        layers = (FourierLayer(width, num_sensors, period, config.num_modes) for _ in range(config.num_fourier_layers))
        self.encoder = nn.Sequential(*layers)
        self.encoder_norm = nn.LayerNorm(width)

    def encode(self, fields: Tensor) -> Tensor:
        return self.encoder_norm(self.encoder(self.embed_sensor(self.task.as_sequence(fields))))


class FourierLayer(nn.Module):
    """A spectral convolution plus a pointwise linear path, (B, S, M) -> (B, S, M)."""

    def __init__(self, width: int, num_sensors: int, period: int, num_modes: int) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(width, num_sensors, period, num_modes)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x_BSM: Tensor) -> Tensor:
        return F.gelu(self.spectral(x_BSM) + self.pointwise(x_BSM))


class SpectralConvolution(nn.Module):
    """Multiplies the lowest Fourier modes of a sequence by a complex matrix each, (B, S, M) -> (B, S, M).

    The sequence is continued by zeros to `period` samples and what comes out beyond it is dropped, so with
    period = S this is irfft(weight * rfft(x)). A few modes of a short sequence are quicker as two real matrix
    products than as FFTs, and any dtype and compiler takes them.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, width: int, num_sensors: int, period: int, num_modes: int) -> None:
        super().__init__()
        num_modes = min(num_modes, period // 2 + 1)
        phase_KS = 2 * math.pi / period * torch.outer(torch.arange(num_modes), torch.arange(num_sensors)).double()
        # A real sequence holds each mode twice, as k and -k, but for the mean and, of an even period, the highest.
        modes = torch.arange(num_modes)
        times_K1 = torch.where((modes == 0) | (2 * modes == period), 1.0, 2.0).unsqueeze(1) / period
        self.register_buffer("analysis", torch.cat([phase_KS.cos(), -phase_KS.sin()]).float(), persistent=False)
        synthesis = torch.cat([times_K1 * phase_KS.cos(), -times_K1 * phase_KS.sin()]).T
        self.register_buffer("synthesis", synthesis.float().contiguous(), persistent=False)
        self.weight = nn.Parameter(torch.randn(2, num_modes, width, width) / width**2)  # real and imaginary parts

    def forward(self, x_BSM: Tensor) -> Tensor:
        real_KMM, imaginary_KMM = self.weight
        # (re + i im)(a + i b), as one real product per mode
        upper, lower = torch.cat([real_KMM, imaginary_KMM], dim=-1), torch.cat([-imaginary_KMM, real_KMM], dim=-1)
        weight_K2M2M = torch.cat([upper, lower], dim=-2)
        modes_BKM2 = (self.analysis @ x_BSM).unflatten(1, (2, -1))  # (B, 2, K, M)
        modes_KB2M = modes_BKM2.permute(2, 0, 1, 3).flatten(2)
        mixed_KB2M = torch.bmm(modes_KB2M, weight_K2M2M).unflatten(-1, (2, -1))
        return self.synthesis @ mixed_KB2M.permute(1, 2, 0, 3).flatten(1, 2)


ARCHITECTURE = FNO
