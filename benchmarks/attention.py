"""Attention on a CPU: the compiled kernel against PyTorch's fused one and against plain products, by width of the heads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neural_hamilton.architectures.layers import attention as ours

from .timing import compare, time_in_turns

_SHAPES = ((8, 8), (16, 4), (4, 16), (2, 32))  # heads and their width: of 64 features each
_BATCH, _LENGTH = 100, 100
_THREADS = 2
_ROUNDS = 10

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def measure() -> dict[str, Any]:
    """Forward pass, and forward with backward, of every shape; the kernel is timed on wide heads too, where the network leaves it."""
    threads_before, narrow_before = torch.get_num_threads(), ours._NARROW
    torch.set_num_threads(_THREADS)
    ours._NARROW = 64
    try:
        comparisons = []
        for num_heads, width in _SHAPES:
            works = _works(num_heads, width)
            seconds = time_in_turns(works, _ROUNDS)
            label = f"{num_heads} heads of {width}"
            comparisons += [
                compare(seconds, f"{label}, {work}, kernel", f"{label}, {work}, {peer}")
                for work in ("forward", "training")
                for peer in ("torch's fused one", "plain products")
            ]
    finally:
        torch.set_num_threads(threads_before)
        ours._NARROW = narrow_before
    return {
        "what": f"attention of {_LENGTH} queries to {_LENGTH} keys, 64 features, batch {_BATCH}, float32, {_THREADS} threads",
        "comparisons": comparisons,
        "widest_head_of_the_kernel": narrow_before,
    }


def _works(num_heads: int, width: int) -> dict[str, Callable[[], Any]]:
    rng = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(_BATCH, _LENGTH, num_heads * width, generator=rng) for _ in range(3))
    leaves = tuple(x.clone().requires_grad_() for x in inputs)

    def forward(attention: Attention) -> None:
        with torch.inference_mode():
            attention(*inputs, num_heads)

    def training(attention: Attention) -> None:
        y = attention(*leaves, num_heads)
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    contestants: dict[str, Attention] = {"kernel": ours.attention, "torch's fused one": _fused, "plain products": _plain}
    works: dict[str, Callable[[], Any]] = {}
    for name, attention in contestants.items():
        works[f"{num_heads} heads of {width}, forward, {name}"] = lambda attention=attention: forward(attention)
        works[f"{num_heads} heads of {width}, training, {name}"] = lambda attention=attention: training(attention)
    return works


def _heads(num_heads: int, *inputs: Tensor) -> list[Tensor]:
    return [x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in inputs]


def _fused(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    return F.scaled_dot_product_attention(*_heads(num_heads, query, key, value)).transpose(1, 2).flatten(2)


def _plain(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    query, key, value = _heads(num_heads, query, key, value)
    shares = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1)
    return (shares @ value).transpose(1, 2).flatten(2)
