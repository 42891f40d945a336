"""The scan and the convolution in readable PyTorch: what every other backend is held against.

Shapes: B batch, L sequence, D channels, N states, K taps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    """As `selective_scan`; computes in float32 at least and returns the type of x."""
    dtype = torch.promote_types(x_BLD.dtype, torch.float32)
    x, delta, A, B, C, D = (tensor.to(dtype) for tensor in (x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D))
    if delta_softplus:
        delta = F.softplus(delta)
    decay_LBDN = torch.exp(delta.transpose(0, 1).unsqueeze(-1) * A)
    drive_LBDN = ((delta * x).unsqueeze(-1) * B.unsqueeze(-2)).transpose(0, 1)
    state_BDN = torch.zeros_like(drive_LBDN[0])
    states = []
    # unbind, not indexing: the backward of indexing writes a full-length gradient at every step.
    for decay_BDN, drive_BDN in zip(decay_LBDN.unbind(0), drive_LBDN.unbind(0), strict=True):
        state_BDN = torch.addcmul(drive_BDN, decay_BDN, state_BDN)
        states.append(state_BDN)
    y_BLD = torch.einsum("bldn,bln->bld", torch.stack(states, dim=1), C) + D * x
    if gate_BLD is not None:
        y_BLD = y_BLD * F.silu(gate_BLD.to(dtype))
    return y_BLD.to(x_BLD.dtype)


def convolution(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    """As `causal_convolution`."""
    length, taps = x_BLD.shape[1], weight_DK.shape[1]
    padded_BDL = F.conv1d(x_BLD.transpose(1, 2), weight_DK.unsqueeze(1), bias_D, padding=taps - 1, groups=len(bias_D))
    return F.silu(padded_BDL[..., :length]).transpose(1, 2)  # what is cut off would look ahead
