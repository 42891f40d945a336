"""The fused kernels as operators of PyTorch, which torch.compile puts into a graph without looking inside."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import custom_op

ScanForward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, bool, bool], tuple[Tensor, Tensor]]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
ScanBackward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, bool, Tensor, Tensor], Gradients]


def register_scan(backend: str, forward: ScanForward, backward: ScanBackward, new_states: Callable[[Tensor, Tensor, bool], Tensor]) -> None:
    """`neural_hamilton::scan_forward_BACKEND` and `..._backward_...`; `new_states(x, A, keep)` makes the tensor of kept states."""

    def fake_forward(x, delta, A, B, C, D, gate, delta_softplus, keep_states):
        return torch.empty_like(x, memory_format=torch.contiguous_format), new_states(x, A, keep_states)

    def fake_backward(x, delta, A, B, C, D, gate, delta_softplus, states, dy):
        like = (x, delta, A, B, C, D, x.new_empty((0, 0, 0)) if gate is None else gate)
        return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in like)

    custom_op(f"neural_hamilton::scan_forward_{backend}", forward, mutates_args=()).register_fake(fake_forward)
    custom_op(f"neural_hamilton::scan_backward_{backend}", backward, mutates_args=()).register_fake(fake_backward)


def register_convolution(
    backend: str,
    forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    backward: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> None:
    """`neural_hamilton::convolution_forward_BACKEND` and `..._backward_...`."""

    def fake_forward(x, weight, bias):
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    def fake_backward(x, weight, bias, dy):
        return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, weight, bias))

    custom_op(f"neural_hamilton::convolution_forward_{backend}", forward, mutates_args=()).register_fake(fake_forward)
    custom_op(f"neural_hamilton::convolution_backward_{backend}", backward, mutates_args=()).register_fake(fake_backward)
