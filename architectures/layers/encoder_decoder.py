"""Networks that encode the fields as a memory, to which the query times attend. They differ in the encoder alone.

Shapes: B batch, U rows that may differ (1 where all rows share the times, else B), L sequence of sensors, T query times,
d degrees of freedom, K = 2d components of a state, M width.
"""

from abc import abstractmethod
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from ..operator import DirectConfig, DirectOperator
from ..task import Task
from .basics import TimeFeatures
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
        if self.published_layers and (self.window is not None or self.position_frequencies):
            key = "position_frequencies" if self.window is None else "window"
            raise ValueError(f"{key} is {getattr(self, key)}; the published layers have none")
        return self

    @property
    def queries_are_independent(self) -> bool:
        return not self.published_layers


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

    def __init__(self, config: EncoderDecoderConfig, task: Task) -> None:
        super().__init__(config, task)
        width, num_heads = config.d_model, config.num_heads
        if config.published_layers:
            layer = nn.TransformerDecoderLayer(width, num_heads, config.d_feedforward, dropout=0.0, batch_first=True)
            self.embed_query = IndexedQueries(width, task.degrees_of_freedom)
            self.decoder = nn.TransformerDecoder(layer, config.num_decoder_layers)
        else:
            time_features = TimeFeatures(config.num_frequencies, self.reach)
            self.embed_query = TimeQueries(time_features, self.embed_state.num_features, width)
            self.decoder = CrossAttentionDecoder(config.num_decoder_layers, width, num_heads, config.d_feedforward)
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * task.degrees_of_freedom)

    @abstractmethod
    def encode(self, patches: Tensor) -> Tensor:
        """The memory (B, L, M) of normalised fields in patches."""

    def read(self, patches: Tensor, initial_BK: Tensor) -> tuple[Any, Tensor]:
        memory_BLM = self.encode(patches)
        return memory_BLM, memory_BLM.new_zeros(())

    def free_part(self, memory: Any, times_BT: Tensor, initial: Tensor) -> Tensor:
        return self.decode(self.embed_query(times_BT, self.embed_state(initial)), memory)

    def decode(self, query_UTM: Tensor, memory_BLM: Tensor) -> Tensor:
        """What `free_part` returns, from embedded queries and the memory."""
        return self.head(self.decoder_norm(self.decoder(query_UTM, memory_BLM)))
