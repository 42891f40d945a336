"""The scan and the convolution on CPUs: hands PyTorch's memory to the compiled kernels and shares them among threads.

Shapes: B batch, L sequence, D channels, N states, K taps, C chunks, G blocks of channels.
"""

import torch
from torch import Tensor

from ...physics.errors import InputError
from . import cpu_kernels as kernels
from .operators import register_convolution, register_scan
from .threads import share


def scan_forward(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    gate_BLD: Tensor | None,
    delta_softplus: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    """y, and the states at the start of each chunk, (B, C, N, D); C is 0 unless they are to be kept."""
    tensors = _contiguous(x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, gate_BLD)
    batch, _, channels = x_BLD.shape
    y_BLD = torch.empty(x_BLD.shape, dtype=x_BLD.dtype)
    states_BCND = _new_states(x_BLD, A_DN, keep_states)
    arrays = [tensor.numpy() for tensor in (*tensors, y_BLD, states_BCND)]
    share(kernels.scan_forward, batch * _blocks(channels), y_BLD.numel() * A_DN.shape[1], *arrays[:7], delta_softplus, *arrays[7:])
    return y_BLD, states_BCND


def scan_backward(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    gate_BLD: Tensor | None,
    delta_softplus: bool,
    states_BCND: Tensor,
    dy_BLD: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the seven tensors, in their order; that of a gate which is not there is empty."""
    tensors = _contiguous(x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, gate_BLD)
    batch, length, channels = x_BLD.shape
    num_states, blocks = A_DN.shape[1], _blocks(channels)
    dx_BLD, ddelta_BLD = torch.empty_like(tensors[0]), torch.empty_like(tensors[1])
    dA_BDN = x_BLD.new_empty(batch, channels, num_states)
    dB_GBLN, dC_GBLN = x_BLD.new_empty(2, blocks, batch, length, num_states).unbind(0)
    dD_BD = x_BLD.new_empty(batch, channels)
    dgate_BLD = torch.empty_like(tensors[6])
    gradients = (dx_BLD, ddelta_BLD, dA_BDN, dB_GBLN, dC_GBLN, dD_BD, dgate_BLD)
    arrays = [tensor.numpy() for tensor in (*tensors, states_BCND, dy_BLD.contiguous(), *gradients)]
    share(kernels.scan_backward, batch * blocks, 2 * dx_BLD.numel() * num_states, *arrays[:7], delta_softplus, *arrays[7:])
    return dx_BLD, ddelta_BLD, dA_BDN.sum(0), dB_GBLN.sum(0), dC_GBLN.sum(0), dD_BD.sum(0), dgate_BLD


def convolution_forward(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    """As `causal_convolution`."""
    x_BLD, weight_KD = x_BLD.contiguous(), weight_DK.t().contiguous()
    y_BLD = torch.empty_like(x_BLD)
    arrays = (tensor.numpy() for tensor in (x_BLD, weight_KD, bias_D.contiguous(), y_BLD))
    share(kernels.convolution_forward, len(x_BLD), x_BLD.numel() * 2, *arrays)
    return y_BLD


def convolution_backward(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor, dy_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the three tensors, in their order."""
    x_BLD, weight_KD = x_BLD.contiguous(), weight_DK.t().contiguous()
    dx_BLD = torch.empty_like(x_BLD)
    dweight_BKD = x_BLD.new_empty(len(x_BLD), *weight_KD.shape)
    dbias_BD = x_BLD.new_empty(len(x_BLD), len(bias_D))
    arrays = (tensor.numpy() for tensor in (x_BLD, weight_KD, bias_D.contiguous(), dy_BLD.contiguous(), dx_BLD, dweight_BKD, dbias_BD))
    share(kernels.convolution_backward, len(x_BLD), x_BLD.numel() * 4, *arrays)
    return dx_BLD, dweight_BKD.sum(0).t().contiguous(), dbias_BD.sum(0)


def _new_states(x_BLD: Tensor, A_DN: Tensor, keep_states: bool) -> Tensor:
    batch, length, channels = x_BLD.shape
    return x_BLD.new_empty((batch, -(-length // kernels.CHUNK) if keep_states else 0, A_DN.shape[1], channels))


def _contiguous(*tensors: Tensor | None) -> list[Tensor]:
    """The tensors with their elements in order, of one type; an empty one for None."""
    dtype = next(tensor.dtype for tensor in tensors if tensor is not None)
    for tensor in tensors:
        if tensor is not None and tensor.dtype != dtype:
            raise InputError(f"a tensor of the scan is {tensor.dtype} and x is {dtype}; the backend 'cpu' wants one type for all")
    return [torch.empty((0, 0, 0), dtype=dtype) if tensor is None else tensor.contiguous() for tensor in tensors]


def _blocks(channels: int) -> int:
    return -(-channels // kernels.BLOCK)


register_scan("cpu", scan_forward, scan_backward, _new_states)
register_convolution("cpu", convolution_forward, convolution_backward)
