"""Networks that encode the fields as a memory, to which the query times attend. They differ in the encoder alone.

Shapes: B batch, U rows that may differ (1 where all rows share the times, else B), L sequence of sensors, T query times,
d degrees of freedom, K = 2d components of a state, M width.
"""

from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..operator import DirectConfig, DirectOperator
from ..task import Task
from .basics import TimeFeatures, mlp
from .transformer import CrossAttentionDecoder, IndexedQueries, TimeQueries


class EncoderDecoderConfig(DirectConfig):
    """Sizes of the decoder; an architecture adds those of its encoder."""

    d_model: int = Field(default=64, ge=1, description="width of every layer; a multiple of num_heads")
    num_heads: int = Field(default=8, ge=1)
    num_decoder_layers: int = Field(default=3, ge=1)
    d_feedforward: int = Field(default=512, ge=1)
    num_frequencies: int = Field(
        default=16, ge=0, description="sine and cosine pairs of t in a query; with published_layers it must be 0, and is by default"
    )
    local_memory: bool = Field(
        default=False,
        description="a query also reads the encoded fields at the place of its state, interpolated between the sensors",
    )
    published_layers: bool = Field(
        default=False,
        description="the layers of arXiv 2410.20951: a query carries its index, not features of t, and sees the others",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_frequencies_by_default_in_published_layers(cls, values: Any) -> Any:
        return without_frequencies(values)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Any:
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model is {self.d_model}; it must be a multiple of num_heads, {self.num_heads}")
        if self.published_layers and self.num_frequencies:
            raise ValueError(f"num_frequencies is {self.num_frequencies}; it must be 0 with published_layers, whose queries carry an index")
        if self.published_layers:
            refuse_with_published_layers(self, ("window", "local_memory", "local_sensors"))
        return self

    @property
    def queries_are_independent(self) -> bool:
        return not self.published_layers


def refuse_with_published_layers(config: DirectConfig, keys: tuple[str, ...]) -> None:
    """Raises ValueError, naming the first of `keys` that is set."""
    for key in keys:
        if getattr(config, key):
            raise ValueError(f"{key} is {getattr(config, key)}; the published layers have none")


def without_frequencies(values: Any) -> Any:
    """Values of a configuration in which `num_frequencies` is 0 by default where the published layers are chosen."""
    if isinstance(values, dict) and values.get("published_layers") is True:
        return {"num_frequencies": 0} | values
    return values


class EncoderDecoder(DirectOperator):
    """Queries, decoder and head; subclasses implement `encode`.

    The default layers are pre-norm cross-attention: a query sees the memory and never another query, so a prediction depends
    on the fields, the initial state and its own time alone. The published ones are PyTorch's post-norm transformer decoder.
    """

    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig, task: Task) -> None:
        super().__init__(config, task)
        width, num_heads = config.d_model, config.num_heads
        if config.published_layers:
            layer = nn.TransformerDecoderLayer(width, num_heads, config.d_feedforward, dropout=0.0, batch_first=True)
            self.embed_query = IndexedQueries(width, task.degrees_of_freedom)
            self.decoder = nn.TransformerDecoder(layer, config.num_decoder_layers)
        else:
            time_features = TimeFeatures(config.num_frequencies, self.reach)
            self.embed_query = TimeQueries(time_features, 2 * task.degrees_of_freedom, width)
            self.decoder = CrossAttentionDecoder(config.num_decoder_layers, width, num_heads, config.d_feedforward)
        if config.local_memory:
            self.embed_place = nn.Linear(width, width)
        if self.local_fields is not None:
            self.embed_local_fields = mlp([self.local_fields.num_features, 2 * width, width])
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * task.degrees_of_freedom)

    @abstractmethod
    def encode(self, patches: Tensor) -> Tensor:
        """The memory (B, L, M) of normalised fields in patches."""

    def read(self, patches: Tensor, initial_BK: Tensor) -> tuple[Any, Tensor]:
        memory_BLM = self.encode(patches)
        return memory_BLM, memory_BLM.new_zeros(())

    def free_part(self, memory: Any, times_BT: Tensor, initial: Tensor, near: Tensor | None) -> Tensor:
        query_UTM = self.embed_query(times_BT, initial)
        if self.config.local_memory:
            query_UTM = query_UTM + self.embed_place(self._at_state(memory, initial))
        if near is not None:
            query_UTM = query_UTM + self.embed_local_fields(near)
        return self.decode(query_UTM, memory)

    def _at_state(self, memory_BLM: Tensor, initial: Tensor) -> Tensor:
        """The memory at the places of states (B, 2d), or of (B, T, 2d), linear in each coordinate between the tokens: (B, 1 or T, M)."""
        q_BTd = (initial if initial.ndim == 3 else initial.unsqueeze(1))[..., : self.task.degrees_of_freedom]
        size, index_BT, weight_BT = self.config.patch_size, [q_BTd.new_zeros(q_BTd.shape[:2], dtype=torch.long)], [q_BTd.new_ones(())]
        for q_BT, (left, right), sensors in zip(q_BTd.unbind(dim=-1), self.task.domain, self.task.sensors, strict=True):
            # In tokens, whose middles are half a patch from the first sensor.
            place_BT = ((q_BT - left) / (right - left) * (sensors - 1) - (size - 1) / 2) / size
            tokens = sensors // size
            place_BT = place_BT.clamp(0, tokens - 1)
            low_BT = place_BT.detach().long().clamp(0, tokens - 2)  # also where the place is not a number
            index_BT = [i * tokens + low_BT + k for i in index_BT for k in (0, 1)]
            part_BT = place_BT - low_BT
            weight_BT = [w * share for w in weight_BT for share in (1 - part_BT, part_BT)]
        width = memory_BLM.shape[-1]
        corners = [memory_BLM.gather(1, i.unsqueeze(-1).expand(-1, -1, width)) for i in index_BT]
        return torch.stack([w.unsqueeze(-1) * m for w, m in zip(weight_BT, corners, strict=True)]).sum(dim=0)

    def decode(self, query_UTM: Tensor, memory_BLM: Tensor) -> Tensor:
        """What `free_part` returns, from embedded queries and the memory."""
        return self.head(self.decoder_norm(self.decoder(query_UTM, memory_BLM)))
