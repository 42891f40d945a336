"""One function for all backends. Shapes: B batch, L sequence, D channels, N states."""

from typing import Any

import torch
from torch import Tensor

from ...physics.errors import InputError
from . import backends, reference_backend


def selective_scan(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    gate_BLD: Tensor | None = None,
    *,
    delta_softplus: bool = False,
    backend: str | None = None,
) -> Tensor:
    """y_t = (C_t h_t + D x_t) silu(gate_t) with h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t and h_{-1} = 0.

    A is discretised by zero-order hold and B by the Euler rule, as in the paper's reference code.

    Parameters
    ----------
    x_BLD, delta_BLD, B_BLN, C_BLN
        The sequence and what is selected at each of its steps: step sizes, input and output maps.
    A_DN, D_D
        Rates of the states (negative ones decay) and weights of the direct path.
    gate_BLD
        Without it the last factor is 1.
    delta_softplus
        Step sizes are softplus(delta).
    backend
        A name from `BACKENDS`; None chooses, see `choose_backend`.

    Returns
    -------
    Tensor
        y, shape (B, L, D), type of x; differentiable once in every tensor argument (`reference`: any number of times).

    Raises
    ------
    InputError
        A shape or type does not fit, or the backend asked for cannot run here.
    """
    tensors = (x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, gate_BLD)
    _check_shapes(*tensors)
    chosen = backends.resolve(x_BLD.device.type, x_BLD.dtype, backend or backends.forced_backend())
    if chosen == "reference":
        return reference_backend.scan(*tensors, delta_softplus)
    if chosen == "mamba_ssm":
        from . import mamba_ssm_backend

        return mamba_ssm_backend.scan(*tensors, delta_softplus)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return _Scan.apply(chosen, delta_softplus, *tensors)
    return _kernel(chosen, "forward")(*tensors, delta_softplus, False)[0]


class _Scan(torch.autograd.Function):
    """Forward and backward of a fused backend; what it keeps is its input and a state every few steps."""

    @staticmethod
    def forward(ctx: Any, backend: str, delta_softplus: bool, *tensors: Tensor | None) -> Tensor:
        y_BLD, states = _kernel(backend, "forward")(*tensors, delta_softplus, True)
        ctx.backend, ctx.delta_softplus = backend, delta_softplus
        ctx.save_for_backward(*tensors, states)
        return y_BLD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        (dy_BLD,) = grad_outputs
        *tensors, states = ctx.saved_tensors
        *gradients, dgate_BLD = _kernel(ctx.backend, "backward")(*tensors, ctx.delta_softplus, states, dy_BLD)
        return None, None, *gradients, dgate_BLD if tensors[-1] is not None else None


def refuse_second_derivatives() -> None:
    """For the backward pass of a fused kernel, whose result has no graph: without this it would pass for a constant."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError("the fused scan can be differentiated once; for higher derivatives use the backend 'reference'")


def _kernel(backend: str, direction: str) -> Any:
    """The Python function, or its registered operator where torch.compile looks: opaque to it, but dearer to call."""
    if torch.compiler.is_compiling():
        return getattr(torch.ops.neural_hamilton, f"scan_{direction}_{backend}")
    if backend == "cpu":
        from . import cpu_backend as module
    else:
        from . import triton_backend as module
    return getattr(module, f"scan_{direction}")


def _check_shapes(
    x_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_D: Tensor, gate_BLD: Tensor | None
) -> None:
    if x_BLD.ndim != 3 or A_DN.ndim != 2 or min(x_BLD.shape[1:]) < 1 or A_DN.shape[1] < 1:
        raise InputError(
            f"x has shape {tuple(x_BLD.shape)} and A {tuple(A_DN.shape)}; they must be (B, L, D) and (D, N), none of L, D, N zero"
        )
    shape, (batch, length, channels), num_states = x_BLD.shape, x_BLD.shape, A_DN.shape[1]
    expected = (
        ("delta", delta_BLD, shape),
        ("A", A_DN, (channels, num_states)),
        ("B", B_BLN, (batch, length, num_states)),
        ("C", C_BLN, (batch, length, num_states)),
        ("D", D_D, (channels,)),
        ("gate", gate_BLD, shape),
    )
    for name, tensor, wanted in expected:
        if tensor is not None and tensor.shape != wanted:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}; with x {tuple(shape)} and A {tuple(A_DN.shape)} it must be {tuple(wanted)}"
            )
