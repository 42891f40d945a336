"""What a measurement must cost at least: operations and bytes, worked out before anything runs.

Shapes: B batch, L sequence, D channels, N states.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from neural_hamilton.architectures import ArchitectureConfig, Task, build_operator

_PRODUCT = 2  # operations of a multiplication and its addition
_FLOAT = 4  # bytes
_CHUNK = 16  # steps between the states that the fused scan keeps


@dataclass(frozen=True)
class Card:
    """Rates of a device: bytes a second, operations a second by precision, exponentials a second."""

    name: str
    bandwidth: float
    operations: dict[str, float]
    exponentials: float


# NVIDIA H100 Tensor Core GPU datasheet, SXM, dense; exponentials: 16 a clock and multiprocessor, 132 of them at 1.755 GHz.
H100 = Card("H100 SXM", 3.35e12, {"float32": 67e12, "tf32": 495e12, "bf16": 989e12}, 132 * 16 * 1.755e9)


@dataclass(frozen=True)
class ScanWork:
    """The selective scan of (B, L, D) with N states, float32, gated: the least it must move and do."""

    batch: int
    length: int
    channels: int
    states: int
    backward: bool

    @property
    def bytes(self) -> int:
        """Each input read once, each output written once. Forward: x, delta, gate, B, C in, y out.

        With the backward pass also the kept states out and in, and x, delta, gate, dy, B, C in, dx, ddelta, dgate, dB, dC out.
        """
        sequence, selected = self.batch * self.length * self.channels, self.batch * self.length * self.states
        kept = self.batch * -(-self.length // _CHUNK) * self.channels * self.states
        forward = 4 * sequence + 2 * selected
        return _FLOAT * (forward + (2 * kept + 7 * sequence + 4 * selected if self.backward else 0))

    @property
    def exponentials(self) -> int:
        """exp(delta A) of each state; the backward pass takes it twice more."""
        return self.batch * self.length * self.channels * self.states * (3 if self.backward else 1)


def network_operations(config: ArchitectureConfig, task: Task, num_rows: int, times_shape: tuple[int, ...], backward: bool) -> int:
    """Floating-point operations of a batch in matrix products and attention, with the backward pass or without it.

    `times_shape` is (1, T) where all rows share their times, which a network may then treat once, else (num_rows, T).
    """
    with torch.device("meta"):
        model = build_operator(config, task)
        inputs = torch.empty(num_rows, *task.field_shape), torch.empty(times_shape), torch.empty(num_rows, 2 * task.degrees_of_freedom)
    # On this device nothing is computed, and attention and LSTMs are seen as the products they consist of.
    gradients = contextlib.nullcontext() if backward else torch.no_grad()
    convolutions = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=convolutions) as counter, sdpa_kernel(SDPBackend.MATH), gradients:
        output = model(*inputs)
        if backward:
            (output.q.sum() + output.p.sum() + output.auxiliary_loss).backward()
    return counter.get_total_flops()


def _convolution_backward(
    dy_shape: list[int], x_shape: list[int], weight_shape: list[int], *_: Any, output_mask: list[bool] | None = None, **__: Any
) -> int:
    """Of the gradients of input and weight, each like the forward pass; PyTorch's own count takes a grouped one for a full one."""
    batch, _, *lengths = dy_shape
    return 2 * _PRODUCT * batch * math.prod(lengths) * math.prod(weight_shape)
