"""One step of any Runge-Kutta-Nystrom method, explicit or implicit; `tableaux` holds the methods."""

import math
from collections.abc import Callable
from typing import Any

_MAX_STAGE_ROUNDS = 100


def make_nystrom_step(force: Callable[..., Any]) -> Callable[..., Any]:
    """One step of a Runge-Kutta-Nystrom method for q'' = f(q), explicit or implicit.

        k_i = f(q + c_i h p + h^2 sum_j a_ij k_j)
        q  <- q + h p + h^2 sum_i w_i k_i
        p  <- p + h sum_i b_i k_i                (Hairer, Norsett & Wanner, Solving ODEs I, II.14)

    The force is called as `force(potential, memory, q)`; `memory` is what it keeps from call to call. The step
    takes these, the arrays of the tableau and k (s,), the forces of the last step (zeros at first), and returns
    `(q, p, number of forces evaluated)`. The stages of an implicit method are iterated from those of the last
    step until they stop moving; where they do not settle (h^2 |V''| above about 12 for Gauss-Legendre of two
    stages) the new state is nan.

    The force is bound here, not passed, because Numba cannot cache a kernel that receives functions.
    """

    def nystrom_step(potential, memory, nodes, a, weights_q, weights_p, k, q, p, h):
        num_stages = nodes.size
        num_evaluations = num_stages
        if a[0, 0] == 0.0:  # the first stage of an explicit method depends on no other
            for i in range(num_stages):
                shift = 0.0
                for j in range(i):
                    shift += a[i, j] * k[j]
                k[i] = force(potential, memory, q + nodes[i] * h * p + h * h * shift)
        else:
            last_change = math.inf
            for num_rounds in range(1, _MAX_STAGE_ROUNDS + 1):
                change, size = 0.0, 0.0
                for i in range(num_stages):
                    shift = 0.0
                    for j in range(num_stages):
                        shift += a[i, j] * k[j]
                    following = force(potential, memory, q + nodes[i] * h * p + h * h * shift)
                    change = max(change, abs(following - k[i]))
                    size = max(size, abs(following))
                    k[i] = following
                num_evaluations = num_stages * num_rounds
                # Rounding keeps the stages trembling: they are solved once they tremble and no longer shrink.
                if change == 0.0 or last_change <= change <= 1e-10 * (1.0 + size) < math.inf:
                    break
                last_change = change
            else:
                k[0] = math.nan
        sum_q, sum_p = 0.0, 0.0
        for i in range(num_stages):
            sum_q += weights_q[i] * k[i]
            sum_p += weights_p[i] * k[i]
        return q + h * p + h * h * sum_q, p + h * sum_p, num_evaluations

    return nystrom_step
