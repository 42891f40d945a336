"""The short convolution in front of the scan. Shapes: B batch, L sequence, D channels, K taps."""

from typing import Any

import torch
from torch import Tensor

from . import backends, reference_backend
from .scan import refuse_second_derivatives


def causal_convolution(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor, *, backend: str | None = None) -> Tensor:
    """y_t = silu(bias + sum_k weight_k x_{t - K + 1 + k}) with zeros before the sequence, channel by channel; (B, L, D).

    Fused where the scan runs on the backend `cpu`, PyTorch's own convolution elsewhere.
    """
    chosen = backends.resolve(x_BLD.device.type, x_BLD.dtype, backend or backends.forced_backend())
    if chosen != "cpu":
        return reference_backend.convolution(x_BLD, weight_DK, bias_D)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x_BLD, weight_DK, bias_D)):
        return _Convolution.apply(x_BLD, weight_DK, bias_D)
    return _kernel("forward")(x_BLD, weight_DK, bias_D)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
        ctx.save_for_backward(x_BLD, weight_DK, bias_D)
        return _kernel("forward")(x_BLD, weight_DK, bias_D)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        refuse_second_derivatives()
        return _kernel("backward")(*ctx.saved_tensors, *grad_outputs)


def _kernel(direction: str) -> Any:
    if torch.compiler.is_compiling():
        return getattr(torch.ops.neural_hamilton, f"convolution_{direction}_cpu")
    from . import cpu_backend

    return getattr(cpu_backend, f"convolution_{direction}")
