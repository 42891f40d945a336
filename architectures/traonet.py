"""TraONet (arXiv 2410.20951): a transformer reads the fields as a sequence, and the query times attend to it."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from .layers.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .layers.transformer import IndexedEmbedding, SelfAttentionLayer, SensorEmbedding
from .task import Task


class TraONetConfig(EncoderDecoderConfig):
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "published": {
            "d_model": 64,
            "num_heads": 8,
            "num_encoder_layers": 3,
            "num_decoder_layers": 3,
            "d_feedforward": 512,
            "published_layers": True,
            "hard_initial_condition": False,
        },
    }

    name: Literal["traonet"] = "traonet"
    num_encoder_layers: int = Field(default=3, ge=1)


class TraONet(EncoderDecoder):
    Config = TraONetConfig

    def __init__(self, config: TraONetConfig, task: Task) -> None:
        super().__init__(config, task)
        width, num_layers = config.d_model, config.num_encoder_layers
        if config.published_layers:
            layer = nn.TransformerEncoderLayer(width, config.num_heads, config.d_feedforward, dropout=0.0, batch_first=True)
            self.embed_sensor = IndexedEmbedding(width, self.patches.channels)
            self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        else:
            layers = (SelfAttentionLayer(width, config.num_heads, config.d_feedforward) for _ in range(num_layers))
            self.embed_sensor = SensorEmbedding(self.patches, config.num_frequencies, width)
            self.encoder = nn.Sequential(*layers)
        self.encoder_norm = nn.LayerNorm(width)

    def encode(self, patches: Tensor) -> Tensor:
        return self.encoder_norm(self.encoder(self.embed_sensor(self.patches.as_sequence(patches))))


ARCHITECTURE = TraONet
