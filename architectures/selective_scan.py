"""The selective state-space scan of Mamba (Gu & Dao, arXiv 2312.00752), as readable PyTorch.

Shapes: B batch, L sequence, D channels, N states.
"""

import torch
from torch import Tensor


def selective_scan(x_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_D: Tensor) -> Tensor:
    """y_t = C_t h_t + D x_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t and h_{-1} = 0.

    A is discretised by zero-order hold and B by the Euler rule, as in the paper's reference code.
    Returns y, shape (B, L, D). Any floating dtype; differentiable in every argument.
    """
    decay_LBDN = torch.exp(delta_BLD.transpose(0, 1).unsqueeze(-1) * A_DN)
    drive_LBDN = ((delta_BLD * x_BLD).unsqueeze(-1) * B_BLN.unsqueeze(-2)).transpose(0, 1)
    state_BDN = torch.zeros_like(drive_LBDN[0])
    states = []
    # unbind, not indexing: the backward of indexing writes a full-length gradient at every step.
    for decay_BDN, drive_BDN in zip(decay_LBDN.unbind(0), drive_LBDN.unbind(0), strict=True):
        state_BDN = torch.addcmul(drive_BDN, decay_BDN, state_BDN)
        states.append(state_BDN)
    return torch.einsum("bldn,bln->bld", torch.stack(states, dim=1), C_BLN) + D_D * x_BLD
