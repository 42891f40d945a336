"""VaRONet (arXiv 2410.20951): a bidirectional LSTM reads the fields into a distribution of latents, which a decoder reads.

Shapes: B batch, U rows that may differ (1 where all rows share the times, else B), T query times, d degrees of freedom,
K = 2d components of a state, N states of the LSTM (two a layer), H its width, W width of the decoder, Z latents.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .layers.basics import TimeFeatures, distinct_rows, mlp
from .layers.encoder_decoder import refuse_with_published_layers, without_frequencies
from .operator import DirectConfig, DirectOperator, with_near
from .task import Task


class VaRONetConfig(DirectConfig):
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "published": {
            "hidden_size": 512,
            "num_encoder_layers": 4,
            "num_decoder_layers": 4,
            "latent_size": 30,
            "kl_weight": 0.055,
            "published_layers": True,
            "hard_initial_condition": False,
        },
    }

    name: Literal["varonet"] = "varonet"
    hidden_size: int = Field(default=64, ge=1, description="width of the LSTM, each way; the decoder is twice as wide")
    num_encoder_layers: int = Field(default=2, ge=1)
    num_decoder_layers: int = Field(default=4, ge=1)
    latent_size: int = Field(default=64, ge=1)
    num_frequencies: int = Field(
        default=16,
        ge=0,
        description="sine and cosine pairs of t read by the decoder; with published_layers it must be 0, and is by default",
    )
    kl_weight: float = Field(default=1e-6, ge=0, description="weight of the mean divergence of a latent from a standard normal one")
    published_layers: bool = Field(
        default=False, description="the layers of arXiv 2410.20951: bidirectional LSTMs decode the list of times as a sequence"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_frequencies_by_default_in_published_layers(cls, values: Any) -> Any:
        return without_frequencies(values)

    @model_validator(mode="after")
    def _published_decoders_fit(self) -> "VaRONetConfig":
        if self.published_layers and self.num_frequencies:
            raise ValueError(f"num_frequencies is {self.num_frequencies}; it must be 0 with published_layers, which read t itself")
        if self.published_layers:
            refuse_with_published_layers(self, ("window", "local_sensors"))
        if self.published_layers and self.num_decoder_layers != self.num_encoder_layers:
            raise ValueError(
                f"num_decoder_layers is {self.num_decoder_layers}; with published_layers the decoders start from the encoder's states "
                f"and need num_encoder_layers, {self.num_encoder_layers}"
            )
        return self

    @property
    def queries_are_independent(self) -> bool:
        return not self.published_layers


class VaRONet(DirectOperator):
    """In training a latent is drawn from its distribution and the weighted divergence is the auxiliary loss.

    In evaluation the latent is the mean, so predictions are deterministic and the auxiliary loss is zero.
    """

    Config = VaRONetConfig

    def __init__(self, config: VaRONetConfig, task: Task) -> None:
        super().__init__(config, task)
        self.kl_weight = config.kl_weight
        state_size = 2 * task.degrees_of_freedom
        self.encoder = nn.LSTM(self.patches.channels, config.hidden_size, config.num_encoder_layers, batch_first=True, bidirectional=True)
        if config.published_layers:
            self.posterior = nn.ModuleList(nn.Linear(config.hidden_size, config.latent_size) for _ in range(2))
            self.decoder = nn.ModuleList(_SequenceDecoder(config, state_size) for _ in range(state_size))
        else:
            num_states = 2 * config.num_encoder_layers * config.hidden_size
            self.posterior = nn.ModuleList(nn.Linear(num_states, config.latent_size) for _ in range(2))
            time_features = TimeFeatures(config.num_frequencies, self.reach)
            self.decoder = _PointwiseDecoder(config, time_features, self.num_state_features, state_size)

    def read(self, patches: Tensor, initial_BK: Tensor) -> tuple[Any, Tensor]:
        hidden_NBH, cell_NBH = self.encoder(self.patches.as_sequence(patches))[1]
        if isinstance(self.decoder, _PointwiseDecoder):
            return self._draw(hidden_NBH.transpose(0, 1).flatten(1))
        latent_NBZ, auxiliary_loss = self._draw(hidden_NBH)
        return (latent_NBZ, cell_NBH), auxiliary_loss

    def free_part(self, memory: Any, times_BT: Tensor, initial: Tensor, near: Tensor | None) -> Tensor:
        if isinstance(self.decoder, _PointwiseDecoder):
            return self.decoder(memory, times_BT, with_near(initial, near))
        parts = [decoder(*memory, times_BT, initial) for decoder in self.decoder]
        return torch.stack(parts, dim=-1)

    def _draw(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """A latent, and its divergence from a standard normal one (Kingma & Welling, arXiv 1312.6114, B), weighted."""
        mean, log_variance = (linear(hidden) for linear in self.posterior)
        if not self.training:
            return mean, mean.new_zeros(())
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return mean + torch.randn_like(mean) * (0.5 * log_variance).exp(), self.kl_weight * divergence


class _PointwiseDecoder(nn.Module):
    """Residual layers over features of t, each scaled and shifted by the latent and the initial state (FiLM, arXiv 1709.07871)."""

    def __init__(self, config: VaRONetConfig, time_features: TimeFeatures, features_of_state: int, state_size: int) -> None:
        super().__init__()
        width, num_layers = 2 * config.hidden_size, config.num_decoder_layers
        self.time_features = time_features
        self.embed_time = nn.Linear(time_features.num_features, width)
        self.modulation = mlp([config.latent_size + features_of_state, width, 2 * num_layers * width])
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(num_layers))
        self.layers = nn.ModuleList(mlp([width, width, width]) for _ in range(num_layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, state_size))

    def forward(self, latent_BZ: Tensor, times_BT: Tensor, state: Tensor) -> Tensor:
        """(B, T, 2d) from features of states, (B, 1, F) or one for each time."""
        x_UTW = self.embed_time(self.time_features(distinct_rows(times_BT)))
        inputs = torch.cat([latent_BZ.unsqueeze(1).expand(-1, state.shape[1], -1), state], dim=-1)
        modulations = self.modulation(inputs).chunk(2 * len(self.layers), dim=-1)
        for norm, layer, scale, shift in zip(self.norms, self.layers, modulations[::2], modulations[1::2], strict=True):
            x_UTW = x_UTW + layer(torch.addcmul(shift, norm(x_UTW), 1 + scale))
        return self.head(x_UTW)


class _SequenceDecoder(nn.Module):
    """One component of the state as published: an LSTM over the times, started from the latent and the encoder's cells.

    The initial state joins the times by a linear map without bias. From (0, 0), the only initial state in the paper, it adds nothing.
    """

    def __init__(self, config: VaRONetConfig, state_size: int) -> None:
        super().__init__()
        self.start = nn.Linear(config.latent_size, config.hidden_size)
        self.lstm = nn.LSTM(1 + state_size, config.hidden_size, config.num_decoder_layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * config.hidden_size, 1)

    def forward(self, latent_NBZ: Tensor, cell_NBH: Tensor, times_BT: Tensor, initial_BK: Tensor) -> Tensor:
        initial_BTK = initial_BK.unsqueeze(1).expand(-1, times_BT.shape[1], -1)
        inputs_BTF = torch.cat([times_BT.unsqueeze(-1), initial_BTK], dim=-1)
        return self.head(self.lstm(inputs_BTF, (self.start(latent_NBZ), cell_NBH))[0]).squeeze(-1)


ARCHITECTURE = VaRONet
