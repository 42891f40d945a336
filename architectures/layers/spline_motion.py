"""The motion of a particle of unit mass in a plane whose V is a tensor-product spline, differentiable by all that it depends on.

Shapes: B batch, T query times, (n1, n2) coefficients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...physics.potentials.tensor_splines import Degree, Domain
from ...physics.solvers.spline_splittings import Splitting, pull_back, solve_splines


@torch.compiler.disable
def spline_motion(coefficients: Tensor, initial: Tensor, times: Tensor, domain: Domain, degree: Degree, splitting: Splitting) -> Tensor:
    """States (B, T, 4) at times (B, T), in float64, from coefficients (B, n1, n2) and initial states (B, 4).

    Steps and their adjoint are compiled for CPUs; tensors on another device are taken there and back.
    """
    states = _SplineMotion.apply(coefficients, initial, times, domain, degree, splitting)
    assert isinstance(states, Tensor)
    return states


class _SplineMotion(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, initial: Tensor, times: Tensor, domain: Domain, degree: Degree, splitting: Splitting
    ) -> Tensor:
        arrays = [x.detach().cpu().double().numpy() for x in (coefficients, initial, times)]
        states = solve_splines(arrays[0], domain, degree, arrays[1], arrays[2], splitting)
        ctx.arrays, ctx.how = arrays, (domain, degree, splitting)
        ctx.like = [(x.dtype, x.device) for x in (coefficients, initial, times)]
        return torch.from_numpy(states).to(coefficients.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_states: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        coefficients, initial, times = ctx.arrays
        domain, degree, splitting = ctx.how
        found = pull_back(coefficients, domain, degree, initial, times, splitting, by_states.cpu().double().numpy())
        gradients = [torch.from_numpy(x).to(dtype=dtype, device=device) for x, (dtype, device) in zip(found, ctx.like, strict=True)]
        return (*gradients, None, None, None)
