"""Compiled attention for CPUs, forward and backward: no matrix of scores is kept, and narrow heads are fast.

Shapes: B batch, T queries, S keys, M width, H heads, K width of a head, W queries of a block.

A *program* is one head of one sequence; a kernel runs the programs `start` to `stop` without the GIL, as those of the
scan do (see `selective_scan.cpu_kernels`, whose `exp2` is used here).
The innermost loops run over the queries of a block, side by side in scratch arrays that are padded with zeros to whole
vectors. Scores carry a factor log2(e), so that the softmax is made of powers of two.
"""

import math

import numpy as np
from numba import njit

from ..selective_scan.cpu_kernels import compiled, exp2

BLOCK = 128  # queries of a block
_LANES = 64  # a block is padded to a multiple of what a loop over vectors takes at once

_LOG2_E = math.log2(math.e)


@njit
def _load(x_BTM, b, first, m, width, factor, block_KW):
    """One head of the queries from `first` on, side by side; returns how many there are, and how many with the padding."""
    block_KW[:] = block_KW.dtype.type(0.0)
    count = min(BLOCK, x_BTM.shape[1] - first)
    for j in range(count):
        for k in range(width):
            block_KW[k, j] = x_BTM[b, first + j, m + k] * factor
    return count, (count + _LANES - 1) // _LANES * _LANES


@compiled
def attention_forward(q_BTM, k_BSM, v_BSM, num_heads, y_BTM, log_sums_BHT, start, stop):
    """Write softmax(q k / sqrt(K)) v of every head, and log2 of the softmax's sums unless `log_sums_BHT` is empty."""
    length, num_keys, width = q_BTM.shape[1], k_BSM.shape[1], q_BTM.shape[2] // num_heads
    dtype, real = q_BTM.dtype, q_BTM.dtype.type
    factor = real(_LOG2_E / math.sqrt(width))
    q_KW, y_KW = np.empty((width, BLOCK), dtype), np.empty((width, BLOCK), dtype)
    score_SW = np.empty((num_keys, BLOCK), dtype)
    largest_W, sum_W = np.empty(BLOCK, dtype), np.empty(BLOCK, dtype)
    for program in range(start, stop):
        b, head = program // num_heads, program % num_heads
        m = head * width
        for first in range(0, length, BLOCK):
            count, lanes = _load(q_BTM, b, first, m, width, factor, q_KW)
            y_KW[:], largest_W[:], sum_W[:] = real(0.0), real(-np.inf), real(0.0)
            for s in range(num_keys):
                score_W = score_SW[s]
                score_W[:] = real(0.0)
                for k in range(width):
                    key, q_W = k_BSM[b, s, m + k], q_KW[k]
                    for j in range(lanes):
                        score_W[j] += key * q_W[j]
                for j in range(lanes):
                    largest_W[j] = max(largest_W[j], score_W[j])
            for s in range(num_keys):
                score_W = score_SW[s]
                for j in range(lanes):
                    share = exp2(score_W[j] - largest_W[j])
                    score_W[j] = share
                    sum_W[j] += share
                for k in range(width):
                    value, y_W = v_BSM[b, s, m + k], y_KW[k]
                    for j in range(lanes):
                        y_W[j] += value * score_W[j]
            for j in range(count):
                for k in range(width):
                    y_BTM[b, first + j, m + k] = y_KW[k, j] / sum_W[j]
                if log_sums_BHT.size > 0:
                    log_sums_BHT[b, head, first + j] = largest_W[j] + np.log2(sum_W[j])


@compiled
def attention_backward(q_BTM, k_BSM, v_BSM, num_heads, y_BTM, log_sums_BHT, dy_BTM, dq_BTM, dk_BSM, dv_BSM, start, stop):
    """Gradients; the weights of the softmax are computed again, key by key (Dao et al., arXiv 2205.14135, appendix B)."""
    length, num_keys, width = q_BTM.shape[1], k_BSM.shape[1], q_BTM.shape[2] // num_heads
    dtype, real = q_BTM.dtype, q_BTM.dtype.type
    scale = 1.0 / math.sqrt(width)
    factor, dq_factor, dk_factor = real(_LOG2_E * scale), real(scale), real(1.0 / _LOG2_E)
    q_KW, y_KW = np.empty((width, BLOCK), dtype), np.empty((width, BLOCK), dtype)
    dq_KW, dy_KW = np.empty((width, BLOCK), dtype), np.empty((width, BLOCK), dtype)
    share_W, dscore_W = np.empty(BLOCK, dtype), np.empty(BLOCK, dtype)
    log_sum_W, overlap_W = np.empty(BLOCK, dtype), np.empty(BLOCK, dtype)
    for program in range(start, stop):
        b, head = program // num_heads, program % num_heads
        m = head * width
        dk_BSM[b, :, m : m + width] = real(0.0)
        dv_BSM[b, :, m : m + width] = real(0.0)
        for first in range(0, length, BLOCK):
            count, lanes = _load(q_BTM, b, first, m, width, factor, q_KW)
            _load(y_BTM, b, first, m, width, real(1.0), y_KW)
            _load(dy_BTM, b, first, m, width, real(1.0), dy_KW)
            dq_KW[:], overlap_W[:], log_sum_W[:] = real(0.0), real(0.0), real(0.0)
            log_sum_W[:count] = log_sums_BHT[b, head, first : first + count]
            for k in range(width):
                y_W, dy_W = y_KW[k], dy_KW[k]
                for j in range(lanes):
                    overlap_W[j] += y_W[j] * dy_W[j]
            for s in range(num_keys):
                share_W[:], dscore_W[:] = real(0.0), real(0.0)
                for k in range(width):
                    key, value, q_W, dy_W = k_BSM[b, s, m + k], v_BSM[b, s, m + k], q_KW[k], dy_KW[k]
                    for j in range(lanes):
                        share_W[j] += key * q_W[j]
                        dscore_W[j] += value * dy_W[j]
                for j in range(lanes):
                    share = exp2(share_W[j] - log_sum_W[j])
                    share_W[j] = share
                    dscore_W[j] = share * (dscore_W[j] - overlap_W[j])
                for k in range(width):
                    key, dkey, dvalue = k_BSM[b, s, m + k], real(0.0), real(0.0)
                    q_W, dq_W, dy_W = q_KW[k], dq_KW[k], dy_KW[k]
                    for j in range(lanes):
                        dvalue += share_W[j] * dy_W[j]
                        dkey += dscore_W[j] * q_W[j]
                        dq_W[j] += dscore_W[j] * key
                    dk_BSM[b, s, m + k] += dkey * dk_factor  # q carries log2(e)
                    dv_BSM[b, s, m + k] += dvalue
            for j in range(count):
                for k in range(width):
                    dq_BTM[b, first + j, m + k] = dq_KW[k, j] * dq_factor
