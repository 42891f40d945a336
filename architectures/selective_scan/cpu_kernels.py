"""Compiled selective scan and causal convolution for CPUs, forward and backward.

Attention uses `exp2` and `compiled` from here. Shapes: B batch, L sequence, D channels, N states, K taps of the convolution or steps of
a chunk, C chunks of the sequence, G blocks of channels, W channels of a block.

A *program* is one block of channels of one sequence. A kernel runs the programs `start` to `stop` one after the
other, without the GIL; who calls it decides how many threads share the programs. Programs write to disjoint
memory, and what they have in common (gradients of A, B, C, D) is summed afterwards in a fixed order, so the
result does not depend on the number of threads.

The innermost loops run over channels, which are contiguous, and have no calls and no branches, so LLVM turns them
into vector instructions. Most of the time goes into exp, hence the polynomials: libm's is not a vector function.
"""

import math
from collections.abc import Callable

import numpy as np
from numba import njit, types
from numba.extending import overload

from ...physics.compiled import compiled as cached_njit

# Contraction to fused multiply-adds everywhere; reassociation, which vector sums need, only in the kernels: it would
# cancel the rounding by a large constant in exp2. Never "nnan" or "ninf": a NaN that comes in must come out.
_EXACT = {"contract"}
_FAST = {"contract", "reassoc", "nsz"}

CHUNK = 16  # steps between stored states: memory of one (B, L, D) tensor when N = 16
BLOCK = 64  # channels of a program

_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2.0)


def exp2(v):
    """2^v to about one unit in the last place; 0 and infinity where the result leaves the range of normal numbers."""
    raise NotImplementedError("compiled code only")


def log1p_ratio(w):
    """2 atanh(s) / s for w = s^2 in [0, 1/9]: log(1 + u) = s times this, with s = u / (2 + u) and u in [0, 1]."""
    raise NotImplementedError("compiled code only")


# 2^v = 2^k 2^r with k the nearest integer to v. Adding 1.5 * 2^23 (2^52) rounds v to an integer and leaves that
# integer in the low bits, from where a shift makes it an exponent: k = -127 gives the bits of 0, k = 128 of infinity.
# The polynomials interpolate at Chebyshev nodes; their own relative errors are 3e-9 and 5e-18.


@njit(fastmath=_EXACT)
def _exp2_float32(v):
    v = np.float32(-127.0) if v < np.float32(-127.0) else v
    v = np.float32(128.0) if v > np.float32(128.0) else v
    rounder = np.float32(12582912.0)
    shifted = v + rounder
    r = v - (shifted - rounder)
    p = np.float32(1.54614447e-4)
    p = p * r + np.float32(1.340042818e-3)
    p = p * r + np.float32(9.618056679e-3)
    p = p * r + np.float32(5.550327227e-2)
    p = p * r + np.float32(2.402265092e-1)
    p = p * r + np.float32(6.931472067e-1)
    p = p * r + np.float32(1.0)
    bits = (np.float32(shifted).view(np.int32) + np.int32(127)) << np.int32(23)
    return p * np.int32(bits).view(np.float32)


@njit(fastmath=_EXACT)
def _exp2_float64(v):
    v = -1023.0 if v < -1023.0 else v
    v = 1024.0 if v > 1024.0 else v
    rounder = 6755399441055744.0
    shifted = v + rounder
    r = v - (shifted - rounder)
    p = 4.45581790833606449e-10
    p = p * r + 7.07419429728852101e-9
    p = p * r + 1.01780570877339411e-7
    p = p * r + 1.32154325359123762e-6
    p = p * r + 1.52527338415567726e-5
    p = p * r + 1.54035304637243542e-4
    p = p * r + 1.33335581464064707e-3
    p = p * r + 9.61812910758725667e-3
    p = p * r + 5.5504108664821627e-2
    p = p * r + 2.40226506959101596e-1
    p = p * r + 6.93147180559945309e-1
    p = p * r + 1.0
    bits = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
    return p * np.int64(bits).view(np.float64)


@njit(fastmath=_EXACT)
def _log1p_ratio_float32(w):
    p = np.float32(2.439390808e-1)
    p = p * w + np.float32(2.139856051e-1)
    p = p * w + np.float32(2.862020741e-1)
    p = p * w + np.float32(3.999871125e-1)
    p = p * w + np.float32(6.666667903e-1)
    return p * w + np.float32(2.0)


@njit(fastmath=_EXACT)
def _log1p_ratio_float64(w):
    p = 0.170441635627813981
    p = p * w + 8.32450651186082058e-2
    p = p * w + 0.121101687280692177
    p = p * w + 0.133003740326746243
    p = p * w + 0.153866140423040078
    p = p * w + 0.181817408325048045
    p = p * w + 0.222222240807476732
    p = p * w + 0.285714285454541145
    p = p * w + 0.400000000001857475
    p = p * w + 0.666666666666661496
    return p * w + 2.0


@overload(exp2, inline="never")
def _exp2(v):
    return {types.float32: lambda v: _exp2_float32(v), types.float64: lambda v: _exp2_float64(v)}[v]


@overload(log1p_ratio, inline="never")
def _log1p_ratio(w):
    return {types.float32: lambda w: _log1p_ratio_float32(w), types.float64: lambda w: _log1p_ratio_float64(w)}[w]


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile on first use, without the GIL, and keep the machine code on disk as `physics.compiled` does."""
    return cached_njit(nogil=True, fastmath=_FAST)(function)


@njit(fastmath=_FAST)
def _softplus_rows(raw, delta, slope):
    """delta = log(1 + exp(raw)) and its derivative, to full relative accuracy for any sign and size of raw."""
    real = delta.dtype.type
    for j in range(len(raw)):
        u = exp2(-abs(raw[j]) * real(_LOG2_E))
        s = u / (real(2.0) + u)
        delta[j] = max(raw[j], real(0.0)) + s * log1p_ratio(s * s)
        slope[j] = (real(1.0) if raw[j] >= real(0.0) else u) / (real(1.0) + u)


@njit(fastmath=_FAST)
def _sigmoid_rows(v, sigmoid):
    real = sigmoid.dtype.type
    for j in range(len(v)):
        u = exp2(-abs(v[j]) * real(_LOG2_E))
        sigmoid[j] = (real(1.0) if v[j] >= real(0.0) else u) / (real(1.0) + u)


@compiled
def scan_forward(x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, gate_BLD, softplus, y_BLD, states_BCND, start, stop):
    """Write y, and the state before each chunk; an empty gate means none, empty states that nobody will ask."""
    _, length, channels = x_BLD.shape
    num_states = A_DN.shape[1]
    blocks = (channels + BLOCK - 1) // BLOCK
    real = x_BLD.dtype.type
    rate_NW = np.empty((num_states, BLOCK), x_BLD.dtype)
    state_NW = np.empty((num_states, BLOCK), x_BLD.dtype)
    # One array each: rows of a common one would be strided to Numba, and the loops scalar.
    delta_W = np.empty(BLOCK, x_BLD.dtype)
    slope_W = np.empty(BLOCK, x_BLD.dtype)
    drive_W = np.empty(BLOCK, x_BLD.dtype)
    sum_W = np.empty(BLOCK, x_BLD.dtype)
    for program in range(start, stop):
        b, first = program // blocks, program % blocks * BLOCK
        width = min(BLOCK, channels - first)
        last = first + width
        for n in range(num_states):
            for j in range(width):
                rate_NW[n, j] = A_DN[first + j, n] * real(_LOG2_E)
                state_NW[n, j] = real(0.0)
        for t in range(length):
            x_W, y_W = x_BLD[b, t, first:last], y_BLD[b, t, first:last]
            if states_BCND.size > 0 and t % CHUNK == 0:
                for n in range(num_states):
                    for j in range(width):
                        states_BCND[b, t // CHUNK, n, first + j] = state_NW[n, j]
            if softplus:
                _softplus_rows(delta_BLD[b, t, first:last], delta_W, slope_W)
            else:
                delta_W[:width] = delta_BLD[b, t, first:last]
            for j in range(width):
                drive_W[j] = delta_W[j] * x_W[j]
                sum_W[j] = D_D[first + j] * x_W[j]
            for n in range(num_states):
                b_n, c_n = B_BLN[b, t, n], C_BLN[b, t, n]
                for j in range(width):
                    state = exp2(delta_W[j] * rate_NW[n, j]) * state_NW[n, j] + drive_W[j] * b_n
                    state_NW[n, j] = state
                    sum_W[j] += c_n * state
            if gate_BLD.size > 0:
                gate_W = gate_BLD[b, t, first:last]
                _sigmoid_rows(gate_W, slope_W)
                for j in range(width):
                    y_W[j] = sum_W[j] * gate_W[j] * slope_W[j]
            else:
                y_W[:] = sum_W[:width]


@compiled
def scan_backward(
    x_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, gate_BLD, softplus, states_BCND, dy_BLD,
    dx_BLD, ddelta_BLD, dA_BDN, dB_GBLN, dC_GBLN, dD_BD, dgate_BLD, start, stop,
):  # fmt: skip
    """Gradients, from the last chunk to the first: states and decays of a chunk are computed again, then read backwards.

    With g_t = dL/dh_t = C_t dy_t + decay_{t+1} g_{t+1}: dB_t = g_t delta_t x_t, dC_t = dy_t h_t (both summed over channels),
    d(delta_t A) = g_t decay_t h_{t-1} and d(delta_t x_t) = B_t g_t (summed over states).
    """
    _, length, channels = x_BLD.shape
    num_states = A_DN.shape[1]
    blocks = (channels + BLOCK - 1) // BLOCK
    real = x_BLD.dtype.type
    dtype = x_BLD.dtype
    # One array each: rows of a common one would be strided to Numba, and the loops scalar.
    A_NW = np.empty((num_states, BLOCK), dtype)
    dA_NW = np.empty((num_states, BLOCK), dtype)
    carry_NW = np.empty((num_states, BLOCK), dtype)  # decay_{t+1} dL/dh_{t+1}
    decay_KNW = np.empty((CHUNK, num_states, BLOCK), dtype)
    before_KNW = np.empty((CHUNK + 1, num_states, BLOCK), dtype)
    delta_KW = np.empty((CHUNK, BLOCK), dtype)
    slope_KW = np.empty((CHUNK, BLOCK), dtype)
    sum_KW = np.empty((CHUNK, BLOCK), dtype)
    drive_W = np.empty(BLOCK, dtype)
    sigmoid_W = np.empty(BLOCK, dtype)
    dsum_W = np.empty(BLOCK, dtype)
    ddrive_W = np.empty(BLOCK, dtype)
    drate_W = np.empty(BLOCK, dtype)
    dD_W = np.empty(BLOCK, dtype)
    gated = gate_BLD.size > 0
    for program in range(start, stop):
        b, block = program // blocks, program % blocks
        first = block * BLOCK
        width = min(BLOCK, channels - first)
        last = first + width
        dD_W[:] = real(0.0)
        for n in range(num_states):
            for j in range(width):
                A_NW[n, j] = A_DN[first + j, n]
                dA_NW[n, j] = real(0.0)
                carry_NW[n, j] = real(0.0)
        for chunk in range(states_BCND.shape[1] - 1, -1, -1):
            begin = chunk * CHUNK
            steps = min(CHUNK, length - begin)
            for n in range(num_states):
                for j in range(width):
                    before_KNW[0, n, j] = states_BCND[b, chunk, n, first + j]
            for k in range(steps):
                t = begin + k
                x_W = x_BLD[b, t, first:last]
                delta_W, sum_W = delta_KW[k], sum_KW[k]
                if softplus:
                    _softplus_rows(delta_BLD[b, t, first:last], delta_W, slope_KW[k])
                else:
                    delta_W[:width] = delta_BLD[b, t, first:last]
                for j in range(width):
                    drive_W[j] = delta_W[j] * x_W[j]
                    sum_W[j] = D_D[first + j] * x_W[j]
                for n in range(num_states):
                    b_n, c_n = B_BLN[b, t, n], C_BLN[b, t, n]
                    A_W, decay_W, before_W, after_W = A_NW[n], decay_KNW[k, n], before_KNW[k, n], before_KNW[k + 1, n]
                    for j in range(width):
                        decay = exp2(delta_W[j] * A_W[j] * real(_LOG2_E))
                        state = decay * before_W[j] + drive_W[j] * b_n
                        decay_W[j] = decay
                        after_W[j] = state
                        sum_W[j] += c_n * state
            for k in range(steps - 1, -1, -1):
                t = begin + k
                x_W, dx_W, dy_W = x_BLD[b, t, first:last], dx_BLD[b, t, first:last], dy_BLD[b, t, first:last]
                delta_W, sum_W, ddelta_W = delta_KW[k], sum_KW[k], ddelta_BLD[b, t, first:last]
                if gated:
                    gate_W, dgate_W = gate_BLD[b, t, first:last], dgate_BLD[b, t, first:last]
                    _sigmoid_rows(gate_W, sigmoid_W)
                    for j in range(width):
                        silu = gate_W[j] * sigmoid_W[j]
                        dsum_W[j] = dy_W[j] * silu
                        dgate_W[j] = dy_W[j] * sum_W[j] * (sigmoid_W[j] + silu * (real(1.0) - sigmoid_W[j]))
                else:
                    dsum_W[:width] = dy_W
                for j in range(width):
                    drive_W[j] = delta_W[j] * x_W[j]
                    dD_W[j] += dsum_W[j] * x_W[j]
                    ddrive_W[j] = real(0.0)
                    drate_W[j] = real(0.0)
                for n in range(num_states):
                    b_n, c_n, db_n, dc_n = B_BLN[b, t, n], C_BLN[b, t, n], real(0.0), real(0.0)
                    A_W, dA_W, carry_W = A_NW[n], dA_NW[n], carry_NW[n]
                    decay_W, before_W, after_W = decay_KNW[k, n], before_KNW[k, n], before_KNW[k + 1, n]
                    for j in range(width):
                        dstate = carry_W[j] + c_n * dsum_W[j]
                        carry = dstate * decay_W[j]
                        dexponent = carry * before_W[j]
                        dc_n += dsum_W[j] * after_W[j]
                        db_n += dstate * drive_W[j]
                        ddrive_W[j] += dstate * b_n
                        drate_W[j] += dexponent * A_W[j]
                        dA_W[j] += dexponent * delta_W[j]
                        carry_W[j] = carry
                    dB_GBLN[block, b, t, n] = db_n
                    dC_GBLN[block, b, t, n] = dc_n
                for j in range(width):
                    dx_W[j] = D_D[first + j] * dsum_W[j] + ddrive_W[j] * delta_W[j]
                    ddelta_W[j] = drate_W[j] + ddrive_W[j] * x_W[j]
                if softplus:
                    for j in range(width):
                        ddelta_W[j] *= slope_KW[k, j]
        for j in range(width):
            dD_BD[b, first + j] = dD_W[j]
            for n in range(num_states):
                dA_BDN[b, first + j, n] = dA_NW[n, j]


@compiled
def convolution_forward(x_BLD, weight_KD, bias_D, y_BLD, start, stop):
    """y_t = silu(bias + sum_k weight_k x_{t - K + 1 + k}), sequences `start` to `stop`; before the sequence lie zeros."""
    _, length, channels = x_BLD.shape
    taps = weight_KD.shape[0]
    sigmoid_D = np.empty(channels, x_BLD.dtype)
    for b in range(start, stop):
        for t in range(length):
            y_D = y_BLD[b, t]
            y_D[:] = bias_D
            for k in range(max(0, taps - 1 - t), taps):
                x_D, weight_D = x_BLD[b, t - taps + 1 + k], weight_KD[k]
                for d in range(channels):
                    y_D[d] += weight_D[d] * x_D[d]
            _sigmoid_rows(y_D, sigmoid_D)
            for d in range(channels):
                y_D[d] *= sigmoid_D[d]


@compiled
def convolution_backward(x_BLD, weight_KD, bias_D, dy_BLD, dx_BLD, dweight_BKD, dbias_BD, start, stop):
    """Gradients of `convolution_forward`; what silu was applied to is computed again."""
    _, length, channels = x_BLD.shape
    taps = weight_KD.shape[0]
    real = x_BLD.dtype.type
    sum_D = np.empty(channels, x_BLD.dtype)
    sigmoid_D = np.empty(channels, x_BLD.dtype)
    for b in range(start, stop):
        dx_BLD[b] = real(0.0)
        dweight_BKD[b] = real(0.0)
        dbias_D = dbias_BD[b]
        dbias_D[:] = real(0.0)
        for t in range(length):
            oldest = max(0, taps - 1 - t)
            sum_D[:] = bias_D
            for k in range(oldest, taps):
                x_D, weight_D = x_BLD[b, t - taps + 1 + k], weight_KD[k]
                for d in range(channels):
                    sum_D[d] += weight_D[d] * x_D[d]
            _sigmoid_rows(sum_D, sigmoid_D)
            dy_D = dy_BLD[b, t]
            for d in range(channels):
                sum_D[d] = dy_D[d] * sigmoid_D[d] * (real(1.0) + sum_D[d] * (real(1.0) - sigmoid_D[d]))
                dbias_D[d] += sum_D[d]
            for k in range(oldest, taps):
                x_D, dx_D = x_BLD[b, t - taps + 1 + k], dx_BLD[b, t - taps + 1 + k]
                weight_D, dweight_D = weight_KD[k], dweight_BKD[b, k]
                for d in range(channels):
                    dx_D[d] += weight_D[d] * sum_D[d]
                    dweight_D[d] += x_D[d] * sum_D[d]
