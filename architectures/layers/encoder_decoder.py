"""Networks that encode V as a memory and answer query times by attention to it. They differ in the encoder alone."""

from typing import Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from ..operator import Answer, ArchitectureConfig, Operator
from .transformer import CrossAttentionDecoder, IndexedQueries, TimeQueries


class EncoderDecoderConfig(ArchitectureConfig):
    """Sizes of the decoder; an architecture adds those of its encoder."""

    d_model: int = Field(default=64, ge=1, description="width of every layer")
    num_heads: int = Field(default=8, ge=1)
    num_decoder_layers: int = Field(default=3, ge=1)
    d_feedforward: int = Field(default=512, ge=1)
    num_frequencies: int = Field(default=16, ge=0, description="sine and cosine pairs of t in a query")
    published_layers: bool = Field(
        default=False,
        description="the layers of arXiv 2410.20951: a query carries its index, not features of t, and sees the others",
    )

    @model_validator(mode="after")
    def _published_queries_have_no_frequencies(self) -> Any:
        if self.published_layers and self.num_frequencies:
            raise ValueError(f"num_frequencies is {self.num_frequencies}; it must be 0 with published_layers, whose queries carry an index")
        return self

    @property
    def has_decoder(self) -> bool:
        """Whether attention answers; an architecture may have another way."""
        return True

    @property
    def queries_are_independent(self) -> bool:
        return not self.published_layers


class EncoderDecoder(Operator):
    """Subclasses implement `encode`; queries, decoder and head live here, for configurations that have a decoder.

    Ours are pre-norm cross-attention layers: a query sees the potential and never another query, so an answer
    depends on V, (q0, p0) and its own t alone. The published ones are PyTorch's post-norm transformer decoder.
    """

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__(config)
        if not config.has_decoder:
            return
        width, num_heads = config.d_model, config.num_heads
        if width % num_heads:
            raise ValueError(f"d_model is {width}; it must be a multiple of num_heads, {num_heads}")
        if config.published_layers:
            layer = nn.TransformerDecoderLayer(width, num_heads, config.d_feedforward, dropout=0.0, batch_first=True)
            self.embed_query = IndexedQueries(width)
            self.decoder = nn.TransformerDecoder(layer, config.num_decoder_layers)
        else:
            self.embed_query = TimeQueries(config.num_frequencies, width)
            self.decoder = CrossAttentionDecoder(config.num_decoder_layers, width, num_heads, config.d_feedforward)
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def encode(self, potential_BS: Tensor) -> Tensor:
        """The memory (B, S, M) of a normalised potential."""
        raise NotImplementedError

    def answer(self, potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor) -> Answer:
        return self.decode(self.embed_query(times_BT, initial_B2), self.encode(potential_BS))

    def decode(self, query_UTM: Tensor, memory_BSM: Tensor) -> Answer:
        """What `answer` returns, from embedded queries and an encoded potential."""
        decoded_BTM = self.decoder(query_UTM, memory_BSM)
        return Answer(self.head(self.decoder_norm(decoded_BTM)), decoded_BTM.new_zeros(()))
