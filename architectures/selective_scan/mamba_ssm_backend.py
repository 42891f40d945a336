"""The scan of the package mamba-ssm, which keeps channels before the sequence. Shapes: B batch, L sequence, D channels, N states."""

from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports]
from torch import Tensor


def scan(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    gate_BLD: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """As `selective_scan`; differentiable once."""
    x_BDL, delta_BDL, B_BNL, C_BNL = (tensor.transpose(1, 2) for tensor in (x_BLD, delta_BLD, B_BLN, C_BLN))
    gate_BDL = None if gate_BLD is None else gate_BLD.transpose(1, 2)
    # It wants the rates and the direct path in float32 whatever the type of x, and one type for the rest.
    dtype = x_BLD.dtype
    y_BDL = selective_scan_fn(
        x_BDL,
        delta_BDL.to(dtype),
        A_DN.float(),
        B_BNL.to(dtype),
        C_BNL.to(dtype),
        D_D.float(),
        z=None if gate_BDL is None else gate_BDL.to(dtype),
        delta_softplus=delta_softplus,
    )
    return y_BDL.transpose(1, 2)
