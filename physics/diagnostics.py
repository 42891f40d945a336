"""Figures of merit of trajectories and of flows (q0, p0) -> (q, p); NumPy only, batched over leading axes.

A *flow* is any function that takes q0, p0 of shape (N,) and returns q, p of shape (N, ...): a solver, a network,
a closed form. A *Jacobian* is an array (..., 2, 2) of d(q, p) / d(q0, p0), rows q and p, columns q0 and p0.
"""

from collections.abc import Callable

import numpy as np

Flow = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def total_loss(q: np.ndarray, p: np.ndarray, true_q: np.ndarray, true_p: np.ndarray) -> np.ndarray:
    """Half the sum of the mean squared errors of q and p over the last axis, (..., T) -> (...)."""
    return 0.5 * (np.mean((q - true_q) ** 2, axis=-1) + np.mean((p - true_p) ** 2, axis=-1))


def energy_drift(value: np.ndarray, p: np.ndarray, energy: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """max over the last axis of abs(H - H0) / scale, with V along the orbit in `value` (..., T), `energy` H0 and `scale` (...)."""
    hamiltonian = 0.5 * p**2 + value
    return np.max(np.abs(hamiltonian - np.asarray(energy)[..., None]), axis=-1) / scale


def jacobian_by_differences(flow: Flow, q0: np.ndarray, p0: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Jacobian of a flow at initial states (N,) or (N, d) by central differences of fourth order, (N, ..., 2d, 2d).

        f'(x) = (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h + O(h^4)

    The flow is called once, on the 8 d N shifted initial states. In float64 the default step leaves about 1e-12 of rounding
    and h^4 / 30 of the fifth derivative; in float32, take a step of about 0.05.
    """
    q0, p0 = np.broadcast_arrays(np.asarray(q0, dtype=np.float64), np.asarray(p0, dtype=np.float64))
    initial = np.stack([q0, p0], axis=-1) if q0.ndim == 1 else np.concatenate([q0, p0], axis=-1)
    num_rows, size = initial.shape
    shifts = step * np.array([1.0, -1.0, 2.0, -2.0])
    moved = np.tile(initial, (size, shifts.size, 1, 1))  # the component that moves, how far, row, component
    for component in range(size):
        moved[component, :, :, component] += shifts[:, None]
    start_q, start_p = np.split(moved.reshape(-1, size), 2, axis=1)
    ends = flow(start_q[:, 0], start_p[:, 0]) if q0.ndim == 1 else flow(start_q, start_p)
    stack = np.stack if q0.ndim == 1 else np.concatenate
    states = stack([np.asarray(x, dtype=np.float64) for x in ends], axis=-1)
    states = states.reshape(size, shifts.size, num_rows, *states.shape[1:])
    slopes = (8.0 * (states[:, 0] - states[:, 1]) - (states[:, 2] - states[:, 3])) / (12.0 * step)
    return np.moveaxis(slopes, 0, -1)


def symplecticity_defect(jacobian: np.ndarray) -> np.ndarray:
    """The largest absolute entry of J^T Omega J - Omega, (..., 2 d, 2 d) -> (...): zero for a symplectic flow.

    Rows and columns of J are q_1 ... q_d, p_1 ... p_d, and Omega = ((0, 1), (-1, 0)) in blocks of d. With one degree of
    freedom this is abs(det J - 1): a flow is symplectic where it preserves area.
    """
    d = jacobian.shape[-1] // 2
    brackets = -np.kron([[0.0, 1.0], [-1.0, 0.0]], np.eye(d))
    by_position, by_momentum = jacobian[..., :d, :], jacobian[..., d:, :]
    for i in range(d):  # Lagrange brackets; not a matrix product, which would round differently
        q, p = by_position[..., i, :], by_momentum[..., i, :]
        brackets = brackets + (q[..., :, None] * p[..., None, :] - p[..., :, None] * q[..., None, :])
    return np.abs(brackets).max(axis=(-2, -1))


def tangent_error(jacobian: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The Frobenius norm of J - J_reference over that of J_reference, (..., 2, 2) -> (...).

    A flow can preserve area and still shear wrongly; this measure shows it. `solvers.solve_tangents` gives the reference.
    """
    return np.linalg.norm(jacobian - reference, axis=(-2, -1)) / np.linalg.norm(reference, axis=(-2, -1))


def log_stretchings(jacobians: np.ndarray) -> np.ndarray:
    """Logarithms of the largest stretching of any direction up to the end of each of W consecutive windows, (..., W).

    `jacobians` (..., W, 2d, 2d) are those of the windows, each from its own beginning to its end. Their product is normalised at
    every window, so it may grow beyond the largest number.
    """
    product, logarithm, found = np.eye(jacobians.shape[-1]), np.zeros(jacobians.shape[:-3]), []
    for window in np.moveaxis(jacobians, -3, 0):
        product = window @ product
        size = np.linalg.norm(product, ord=2, axis=(-2, -1))
        product, logarithm = product / size[..., None, None], logarithm + np.log(size)
        found.append(logarithm)
    return np.stack(found, axis=-1)


def parts_exponentially(stretchings: np.ndarray) -> np.ndarray:
    """Whether neighbours part exponentially, as in chaotic motion, from `log_stretchings` (..., W) of W >= 4 equal windows: (...).

    In regular motion they part in proportion to time, since frequencies differ from torus to torus, and the exponent ln(stretching) / t
    decays as ln(t) / t. In chaotic motion with exponent a the stretching grows by exp(a t / 2) in half the time. Compared are the mean
    logarithms of the second and of the last quarter: a stretching also oscillates with the motion. They differ by ln 2.4 where it grows
    as t and by twice that where it grows as t². The line is drawn between, at ln 4: smaller exponents than 2 ln 4 / t pass for zero.
    No unit of time or of phase space enters. The law of growth as the criterion is that of the fast Lyapunov indicator (Froeschlé, Lega
    and Gonczi, Celestial Mechanics and Dynamical Astronomy 67, 1997, 41).
    """
    quarter = stretchings.shape[-1] // 4
    second, last = (stretchings[..., first : first + quarter].mean(axis=-1) for first in (quarter, stretchings.shape[-1] - quarter))
    return last - second > np.log(4.0)


def reversibility_defect(flow: Flow, q0: np.ndarray, p0: np.ndarray) -> np.ndarray:
    """The distance from the initial state after going forward, reversing p, and going forward again, (N,) -> (N, ...).

    max(abs(q - q0), abs(p + p0)), zero for exact motion, whose equations are the same in either direction of time. A flow
    that gives states at T times, (N, T), is sent back from each of them, by the time it took to get there.
    """
    q0, p0 = np.broadcast_arrays(np.asarray(q0, dtype=np.float64), np.asarray(p0, dtype=np.float64))
    q, p = flow(q0, p0)
    if np.ndim(q) == 1:
        back_q, back_p = flow(q, -p)
        return np.maximum(np.abs(back_q - q0), np.abs(back_p + p0))
    columns = [flow(q[:, k], -p[:, k]) for k in range(q.shape[1])]
    back_q, back_p = (np.stack([column[i][:, k] for k, column in enumerate(columns)], axis=1) for i in (0, 1))
    return np.maximum(np.abs(back_q - q0[:, None]), np.abs(back_p + p0[:, None]))
