"""The scan on GPUs as two Triton kernels, forward and backward. Needs nothing but the Triton that PyTorch brings.

A program is one block of channels of one sequence, with its states in registers, and walks along the sequence. The
forward pass leaves a state every CHUNK steps; the backward pass computes the states of a chunk again from there, into
scratch memory that is used for every chunk anew, and walks back. Whatever the types of the tensors, arithmetic and
what is kept are float32. Sums over programs are taken afterwards in a fixed order, so results repeat to the bit.

Shapes: B batch, L sequence, D channels, N states, C chunks, G blocks of channels; in a kernel, d and n are a block of
channels and all states, the latter padded to a power of two.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .operators import register_scan

_CHUNK = 16
_MAX_TILE = 512  # states of a program, 16 in each thread of its one warp
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _softplus(v):
    """log(1 + exp(v)) to full relative accuracy: with u = exp(-|v|), log(1 + u) = 2 atanh(u / (2 + u)) as a polynomial."""
    u = tl.exp2(-tl.abs(v) * _LOG2_E)
    s = u / (2.0 + u)
    w = s * s
    p = 2.439390808e-1
    p = p * w + 2.139856051e-1
    p = p * w + 2.862020741e-1
    p = p * w + 3.999871125e-1
    p = p * w + 6.666667903e-1
    p = p * w + 2.0
    return tl.maximum(v, 0.0) + s * p


@triton.jit
def _sigmoid(v):
    u = tl.exp2(-tl.abs(v) * _LOG2_E)
    return tl.where(v >= 0.0, 1.0, u) / (1.0 + u)


@triton.jit
def _scan_forward(
    x_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, gate_ptr, y_ptr, states_ptr, length, channels, num_states,
    GATED: tl.constexpr, SOFTPLUS: tl.constexpr, KEEP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_d, in_n = d < channels, n < num_states
    in_dn = in_d[:, None] & in_n[None, :]
    dn = d[:, None] * num_states + n[None, :]
    rate = tl.load(A_ptr + dn, mask=in_dn, other=0.0).to(tl.float32) * _LOG2_E
    skip = tl.load(D_ptr + d, mask=in_d, other=0.0).to(tl.float32)
    state = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    num_chunks = (length + CHUNK - 1) // CHUNK
    for t in range(0, length):
        if KEEP:  # noqa: SIM102 - this one is decided when compiling, the other while running
            if t % CHUNK == 0:
                tl.store(states_ptr + (b * num_chunks + t // CHUNK) * channels * num_states + dn, state, mask=in_dn)
        at_d = (b * length + t) * channels + d
        at_n = (b * length + t) * num_states + n
        x = tl.load(x_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
        delta = tl.load(delta_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
        b_n = tl.load(B_ptr + at_n, mask=in_n, other=0.0).to(tl.float32)
        c_n = tl.load(C_ptr + at_n, mask=in_n, other=0.0).to(tl.float32)
        if SOFTPLUS:
            delta = _softplus(delta)
        state = tl.exp2(delta[:, None] * rate) * state + (delta * x)[:, None] * b_n[None, :]
        y = tl.sum(state * c_n[None, :], axis=1) + skip * x
        if GATED:
            gate = tl.load(gate_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
            y = y * gate * _sigmoid(gate)
        tl.store(y_ptr + at_d, y.to(y_ptr.dtype.element_ty), mask=in_d)


@triton.jit
def _scan_backward(
    x_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, gate_ptr, states_ptr, dy_ptr, scratch_ptr,
    dx_ptr, ddelta_ptr, dA_ptr, dB_ptr, dC_ptr, dD_ptr, dgate_ptr, batch, length, channels, num_states,
    GATED: tl.constexpr, SOFTPLUS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_d, in_n = d < channels, n < num_states
    in_dn = in_d[:, None] & in_n[None, :]
    dn = d[:, None] * num_states + n[None, :]
    A = tl.load(A_ptr + dn, mask=in_dn, other=0.0).to(tl.float32)
    skip = tl.load(D_ptr + d, mask=in_d, other=0.0).to(tl.float32)
    carry = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)  # decay_{t+1} dL/dh_{t+1}
    dA = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    dD = tl.zeros((BLOCK_D,), dtype=tl.float32)
    num_chunks = (length + CHUNK - 1) // CHUNK
    for back in range(0, num_chunks):
        chunk = num_chunks - 1 - back
        begin = chunk * CHUNK
        steps = tl.minimum(CHUNK, length - begin)
        state = tl.load(states_ptr + (b * num_chunks + chunk) * channels * num_states + dn, mask=in_dn, other=0.0)
        for k in range(0, steps):
            at_d = (b * length + begin + k) * channels + d
            at_n = (b * length + begin + k) * num_states + n
            x = tl.load(x_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
            delta = tl.load(delta_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
            b_n = tl.load(B_ptr + at_n, mask=in_n, other=0.0).to(tl.float32)
            if SOFTPLUS:
                delta = _softplus(delta)
            tl.store(scratch_ptr + (b * CHUNK + k) * channels * num_states + dn, state, mask=in_dn)
            state = tl.exp2(delta[:, None] * A * _LOG2_E) * state + (delta * x)[:, None] * b_n[None, :]
        tl.debug_barrier()  # a thread may read from the scratch memory what another wrote
        for back_k in range(0, steps):
            k = steps - 1 - back_k
            at_d = (b * length + begin + k) * channels + d
            at_n = (b * length + begin + k) * num_states + n
            x = tl.load(x_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
            raw = tl.load(delta_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
            b_n = tl.load(B_ptr + at_n, mask=in_n, other=0.0).to(tl.float32)
            c_n = tl.load(C_ptr + at_n, mask=in_n, other=0.0).to(tl.float32)
            dsum = tl.load(dy_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
            before = tl.load(scratch_ptr + (b * CHUNK + k) * channels * num_states + dn, mask=in_dn, other=0.0)
            delta = raw
            if SOFTPLUS:
                delta = _softplus(raw)
            decay = tl.exp2(delta[:, None] * A * _LOG2_E)
            state = decay * before + (delta * x)[:, None] * b_n[None, :]
            if GATED:
                gate = tl.load(gate_ptr + at_d, mask=in_d, other=0.0).to(tl.float32)
                sigmoid = _sigmoid(gate)
                silu = gate * sigmoid
                dgate = dsum * (tl.sum(state * c_n[None, :], axis=1) + skip * x) * (sigmoid + silu * (1.0 - sigmoid))
                tl.store(dgate_ptr + at_d, dgate.to(dgate_ptr.dtype.element_ty), mask=in_d)
                dsum = dsum * silu
            dstate = carry + c_n[None, :] * dsum[:, None]
            carry = dstate * decay
            dexponent = carry * before
            dA += dexponent * delta[:, None]
            dD += dsum * x
            ddrive = tl.sum(dstate * b_n[None, :], axis=1)
            ddelta = tl.sum(dexponent * A, axis=1) + ddrive * x
            if SOFTPLUS:
                ddelta = ddelta * _sigmoid(raw)
            dx = skip * dsum + ddrive * delta
            at_block = block.to(tl.int64) * batch * length * num_states + at_n
            tl.store(dB_ptr + at_block, tl.sum(dstate * (delta * x)[:, None], axis=0), mask=in_n)
            tl.store(dC_ptr + at_block, tl.sum(state * dsum[:, None], axis=0), mask=in_n)
            tl.store(dx_ptr + at_d, dx.to(dx_ptr.dtype.element_ty), mask=in_d)
            tl.store(ddelta_ptr + at_d, ddelta.to(ddelta_ptr.dtype.element_ty), mask=in_d)
        tl.debug_barrier()  # the next chunk writes over what this one read
    tl.store(dA_ptr + b * channels * num_states + dn, dA, mask=in_dn)
    tl.store(dD_ptr + b * channels + d, dD, mask=in_d)


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
    """y, and the states at the start of each chunk, float32 (B, C, D, N); C is 0 unless they are to be kept."""
    _, length, channels = x_BLD.shape
    num_states = A_DN.shape[1]
    y_BLD = torch.empty(x_BLD.shape, dtype=x_BLD.dtype, device=x_BLD.device)
    states_BCDN = _new_states(x_BLD, A_DN, keep_states)
    tensors = _contiguous(x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, gate_BLD)
    sizes = _block_sizes(channels, num_states)
    _launch(
        _scan_forward, x_BLD, sizes, *tensors, y_BLD, states_BCDN, length, channels, num_states,
        GATED=gate_BLD is not None, SOFTPLUS=delta_softplus, KEEP=keep_states,
    )  # fmt: skip
    return y_BLD, states_BCDN


def scan_backward(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    gate_BLD: Tensor | None,
    delta_softplus: bool,
    states_BCDN: Tensor,
    dy_BLD: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the seven tensors, in their order; that of a gate which is not there is empty."""
    batch, length, channels = x_BLD.shape
    num_states = A_DN.shape[1]
    tensors = _contiguous(x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, gate_BLD)
    sizes = _block_sizes(channels, num_states)
    float32 = {"dtype": torch.float32, "device": x_BLD.device}
    scratch = torch.empty((batch, _CHUNK, channels, num_states), **float32)
    dx_BLD, ddelta_BLD = torch.empty_like(tensors[0]), torch.empty_like(tensors[1])
    dA_BDN = torch.empty((batch, channels, num_states), **float32)
    dB_GBLN, dC_GBLN = torch.empty((2, _ceil_divide(channels, sizes["BLOCK_D"]), batch, length, num_states), **float32)
    dD_BD = torch.empty((batch, channels), **float32)
    dgate_BLD = x_BLD.new_empty((0, 0, 0)) if gate_BLD is None else torch.empty_like(tensors[6])
    _launch(
        _scan_backward, x_BLD, sizes, *tensors, states_BCDN, dy_BLD.contiguous(), scratch,
        dx_BLD, ddelta_BLD, dA_BDN, dB_GBLN, dC_GBLN, dD_BD, dgate_BLD, batch, length, channels, num_states,
        GATED=gate_BLD is not None, SOFTPLUS=delta_softplus,
    )  # fmt: skip
    summed = (partial.sum(0).to(of.dtype) for partial, of in ((dA_BDN, A_DN), (dB_GBLN, B_BLN), (dC_GBLN, C_BLN), (dD_BD, D_D)))
    dA_DN, dB_BLN, dC_BLN, dD_D = summed
    return dx_BLD, ddelta_BLD, dA_DN, dB_BLN, dC_BLN, dD_D, dgate_BLD


def _new_states(x_BLD: Tensor, A_DN: Tensor, keep_states: bool) -> Tensor:
    batch, length, channels = x_BLD.shape
    num_chunks = _ceil_divide(length, _CHUNK) if keep_states else 0
    return x_BLD.new_empty((batch, num_chunks, channels, A_DN.shape[1]), dtype=torch.float32)


def _contiguous(*tensors: Tensor | None) -> list[Tensor]:
    """The tensors with their elements in order; the first stands in for a None, which the kernel never reads."""
    first = next(tensor for tensor in tensors if tensor is not None)
    return [(first if tensor is None else tensor).contiguous() for tensor in tensors]


def _block_sizes(channels: int, num_states: int) -> dict[str, int]:
    padded_states = _next_power_of_2(num_states)
    return {"BLOCK_D": min(_next_power_of_2(channels), max(1, _MAX_TILE // padded_states)), "BLOCK_N": padded_states}


def _ceil_divide(count: int, size: int) -> int:
    return -(-count // size)


def _next_power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _launch(kernel: Any, x_BLD: Tensor, sizes: dict[str, int], *arguments: Any, **flags: bool) -> None:
    batch, _, channels = x_BLD.shape
    if batch == 0:
        return
    grid = (batch, _ceil_divide(channels, sizes["BLOCK_D"]))
    with torch.cuda.device_of(x_BLD):  # Triton launches on the current device; no effect on CPU tensors
        kernel[grid](*arguments, **flags, **sizes, CHUNK=_CHUNK, num_warps=1)


register_scan("triton", scan_forward, scan_backward, _new_states)
