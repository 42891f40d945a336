"""FNO: Fourier layers (Li et al., arXiv 2010.08895) read V as a function of q, and the query times attend to it.

Shapes: B batch, S sensors in all, K modes, M width, d axes of the grid of sensors.
"""

import itertools
import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from .layers.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .layers.transformer import SensorEmbedding
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
        default=24, ge=1, description="lowest Fourier modes that each layer mixes, of all directions; all where the sensors carry fewer"
    )
    padding: float = Field(
        default=0.25, ge=0, le=1, description="zeros beyond the last sensor of each axis, as a fraction of the domain: V is not periodic"
    )


class FNO(EncoderDecoder):
    """The Fourier layers have as many dimensions as the grid of sensors."""

    Config = FNOConfig

    def __init__(self, config: FNOConfig, task: Task) -> None:
        super().__init__(config, task)
        width = config.d_model
        if config.published_layers:
            self.embed_sensor = nn.Sequential(nn.Identity(), nn.Linear(self.patches.channels, width))  # saved weights call the layer 1
        else:
            self.embed_sensor = SensorEmbedding(self.patches, config.num_frequencies, width)
        periods = tuple(round(count * (1 + config.padding)) for count in self.patches.sensors)
        layers = (FourierLayer(width, self.patches.sensors, periods, config.num_modes) for _ in range(config.num_fourier_layers))
        self.encoder = nn.Sequential(*layers)
        self.encoder_norm = nn.LayerNorm(width)

    def encode(self, patches: Tensor) -> Tensor:
        return self.encoder_norm(self.encoder(self.embed_sensor(self.patches.as_sequence(patches))))


class FourierLayer(nn.Module):
    """A spectral convolution plus a pointwise linear path, (B, S, M) -> (B, S, M)."""

    def __init__(self, width: int, sensors: tuple[int, ...], periods: tuple[int, ...], num_modes: int) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(width, sensors, periods, num_modes)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x_BSM: Tensor) -> Tensor:
        return F.gelu(self.spectral(x_BSM) + self.pointwise(x_BSM))


class SpectralConvolution(nn.Module):
    """Multiplies the lowest Fourier modes of a function on a grid by a complex matrix each, (B, S, M) -> (B, S, M).

    The grid of `sensors` (in row-major order) is continued by zeros to `periods` samples along its axes, and what comes out
    beyond it is dropped; with one axis and a period of S this is irfft(weight * rfft(x)). A few modes of a small grid are
    quicker as two real matrix products than as FFTs, and any dtype and compiler takes them.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, width: int, sensors: tuple[int, ...], periods: tuple[int, ...], num_modes: int) -> None:
        super().__init__()
        modes_Kd, periods_d = lowest_modes(periods, num_modes), torch.tensor(periods)
        places_Sd = torch.cartesian_prod(*(torch.arange(count) for count in sensors)).reshape(-1, len(sensors))
        phase_KS = 2 * math.pi * (modes_Kd / periods_d).double() @ places_Sd.T.double()
        # A real function holds each mode twice, as k and -k, but for those that are the same sampled.
        own_conjugate_K = (2 * modes_Kd % periods_d == 0).all(dim=1)
        times_K1 = torch.where(own_conjugate_K, 1.0, 2.0).unsqueeze(1) / math.prod(periods)
        self.register_buffer("analysis", torch.cat([phase_KS.cos(), -phase_KS.sin()]).float(), persistent=False)
        synthesis = torch.cat([times_K1 * phase_KS.cos(), -times_K1 * phase_KS.sin()]).T
        self.register_buffer("synthesis", synthesis.float().contiguous(), persistent=False)
        self.weight = nn.Parameter(torch.randn(2, len(modes_Kd), width, width) / width**2)  # real and imaginary parts

    def forward(self, x_BSM: Tensor) -> Tensor:
        real_KMM, imaginary_KMM = self.weight
        # (re + i im)(a + i b), as one real product per mode
        upper, lower = torch.cat([real_KMM, imaginary_KMM], dim=-1), torch.cat([-imaginary_KMM, real_KMM], dim=-1)
        weight_K2M2M = torch.cat([upper, lower], dim=-2)
        modes_BKM2 = (self.analysis @ x_BSM).unflatten(1, (2, -1))  # (B, 2, K, M)
        modes_KB2M = modes_BKM2.permute(2, 0, 1, 3).flatten(2)
        mixed_KB2M = torch.bmm(modes_KB2M, weight_K2M2M).unflatten(-1, (2, -1))
        return self.synthesis @ mixed_KB2M.permute(1, 2, 0, 3).flatten(1, 2)


def lowest_modes(periods: tuple[int, ...], count: int) -> Tensor:
    """The `count` lowest distinct modes k of a real function on a grid of these periods, (K, d), by frequency; all if there are fewer."""
    ranges = [range(-((period - 1) // 2), period // 2 + 1) for period in periods]
    distinct = {max(k, tuple(_aliased(-i, period) for i, period in zip(k, periods, strict=True))) for k in itertools.product(*ranges)}
    by_frequency = sorted(distinct, key=lambda k: (sum((i / period) ** 2 for i, period in zip(k, periods, strict=True)), k))
    return torch.tensor(by_frequency[:count])


def _aliased(mode: int, period: int) -> int:
    """The mode between -period / 2 and period / 2 that has the same samples."""
    return (mode + (period - 1) // 2) % period - (period - 1) // 2


ARCHITECTURE = FNO
