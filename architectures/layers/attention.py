"""Scaled dot-product attention: PyTorch's, and on CPUs a compiled kernel that is faster on narrow heads.

Shapes: B batch, T queries, S keys, M width, H heads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..selective_scan.scan import refuse_second_derivatives
from ..selective_scan.threads import share
from . import attention_kernels as kernels

_NARROW = 8  # width of the widest head on which the kernel is faster than PyTorch's (`python -m benchmarks attention`)


def attention(query_BTM: Tensor, key_BSM: Tensor, value_BSM: Tensor, num_heads: int) -> Tensor:
    """Attention of `num_heads` heads, (B, T, M), without the projections around it; on either way no matrix of scores is kept."""
    if not _has_kernel(query_BTM, key_BSM, value_BSM, num_heads):
        query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query_BTM, key_BSM, value_BSM))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query_BTM, key_BSM, value_BSM)):
        return _Attention.apply(query_BTM, key_BSM, value_BSM, num_heads)
    return _forward(query_BTM.contiguous(), key_BSM.contiguous(), value_BSM.contiguous(), num_heads, keep_sums=False)[0]


def _has_kernel(query_BTM: Tensor, key_BSM: Tensor, value_BSM: Tensor, num_heads: int) -> bool:
    """Whether the compiled kernel takes these tensors and is the faster one; torch.compile sees PyTorch's."""
    dtype = query_BTM.dtype
    return (
        query_BTM.device.type == "cpu"
        and dtype in (torch.float32, torch.float64)
        and dtype == key_BSM.dtype == value_BSM.dtype
        and query_BTM.shape[-1] <= _NARROW * num_heads
        and not torch.compiler.is_compiling()
    )


class _Attention(torch.autograd.Function):
    """Keeps inputs, outputs, and the logarithm of each softmax's sum, from which its weights are computed again."""

    @staticmethod
    def forward(ctx: Any, query_BTM: Tensor, key_BSM: Tensor, value_BSM: Tensor, num_heads: int) -> Tensor:
        query_BTM, key_BSM, value_BSM = query_BTM.contiguous(), key_BSM.contiguous(), value_BSM.contiguous()
        y_BTM, log_sums_BHT = _forward(query_BTM, key_BSM, value_BSM, num_heads, keep_sums=True)
        ctx.save_for_backward(query_BTM, key_BSM, value_BSM, y_BTM, log_sums_BHT)
        ctx.num_heads = num_heads
        return y_BTM

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        query_BTM, key_BSM, value_BSM, y_BTM, log_sums_BHT = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in (query_BTM, key_BSM, value_BSM)]
        inputs = [x.numpy() for x in (query_BTM, key_BSM, value_BSM)]
        rest = [x.numpy() for x in (y_BTM, log_sums_BHT, grad_outputs[0].contiguous(), *gradients)]
        share(kernels.attention_backward, log_sums_BHT.shape[0] * ctx.num_heads, 2 * log_sums_BHT.numel() * key_BSM.shape[1],
              *inputs, ctx.num_heads, *rest)  # fmt: skip
        return *gradients, None


def _forward(query_BTM: Tensor, key_BSM: Tensor, value_BSM: Tensor, num_heads: int, keep_sums: bool) -> tuple[Tensor, Tensor]:
    """The output, and log2 of the sums of each softmax (B, H, T), which is empty unless they are to be kept."""
    batch, num_queries, _ = query_BTM.shape
    y_BTM = torch.empty_like(query_BTM)
    log_sums_BHT = query_BTM.new_empty((batch, num_heads, num_queries) if keep_sums else (0, 0, 0))
    inputs = [x.numpy() for x in (query_BTM, key_BSM, value_BSM)]
    work = batch * num_heads * num_queries * key_BSM.shape[1]
    share(kernels.attention_forward, batch * num_heads, work, *inputs, num_heads, y_BTM.numpy(), log_sums_BHT.numpy())
    return y_BTM, log_sums_BHT
