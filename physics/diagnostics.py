"""Figures of merit of trajectories and of maps (q0, p0) -> (q, p); NumPy only, batched over leading axes.

A *flow* is any function that takes q0, p0 of shape (N,) and returns q, p of shape (N, ...): an integrator, a network,
a closed form. A *Jacobian* is an array (..., 2, 2) of d(q, p) / d(q0, p0), rows q and p, columns q0 and p0.
"""

from collections.abc import Callable

import numpy as np

Flow = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def total_loss(q: np.ndarray, p: np.ndarray, true_q: np.ndarray, true_p: np.ndarray) -> np.ndarray:
    """Half the sum of the mean squared errors of q and p over the last axis, (..., T) -> (...)."""
    return 0.5 * (np.mean((q - true_q) ** 2, axis=-1) + np.mean((p - true_p) ** 2, axis=-1))


def energy_drift(value: np.ndarray, p: np.ndarray, energy: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """max over the last axis of abs(H - H0) / (2 - min V), with V along the orbit in `value` (..., T)."""
    hamiltonian = 0.5 * p**2 + value
    return np.max(np.abs(hamiltonian - np.asarray(energy)[..., None]), axis=-1) / (2.0 - lowest)


def jacobian_by_differences(flow: Flow, q0: np.ndarray, p0: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Jacobian of a flow at starts (N,) by central differences of fourth order, (N, ..., 2, 2).

        f'(x) = (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h + O(h^4)

    The flow is called once, on the 8 N shifted starts. In float64 the default step leaves about 1e-12 of rounding
    and h^4 / 30 of the fifth derivative; in float32, take a step of about 0.05.
    """
    q0, p0 = np.broadcast_arrays(np.asarray(q0, dtype=np.float64), np.asarray(p0, dtype=np.float64))
    shifts = step * np.array([1.0, -1.0, 2.0, -2.0])
    shifted_q = np.concatenate([*(q0 + s for s in shifts), *(q0 for _ in shifts)])
    shifted_p = np.concatenate([*(p0 for _ in shifts), *(p0 + s for s in shifts)])
    states = np.stack([np.asarray(x, dtype=np.float64) for x in flow(shifted_q, shifted_p)], axis=-1)
    moved = states.reshape(2, 4, q0.size, *states.shape[1:])  # the start that moved, how far, row, ..., q and p
    slopes = (8.0 * (moved[:, 0] - moved[:, 1]) - (moved[:, 2] - moved[:, 3])) / (12.0 * step)
    return np.moveaxis(slopes, 0, -1)


def jacobian_by_complex_step(flow: Flow, q0: np.ndarray, p0: np.ndarray) -> np.ndarray:
    """Jacobian of a flow that is analytic and takes complex numbers, exact to rounding, (N, ..., 2, 2).

    f'(x) = Im f(x + i h) / h with h = 1e-30: nothing is subtracted (Squire & Trapp, SIAM Review 40, 1998). A flow that
    takes absolute values, compares, or discards imaginary parts gives a wrong answer without notice.
    """
    q0, p0 = np.broadcast_arrays(np.asarray(q0, dtype=np.complex128), np.asarray(p0, dtype=np.complex128))
    h = 1e-30
    q, p = flow(np.concatenate([q0 + 1j * h, q0]), np.concatenate([p0, p0 + 1j * h]))
    slopes = np.stack([np.imag(q), np.imag(p)], axis=-1) / h
    return np.moveaxis(slopes.reshape(2, q0.size, *slopes.shape[1:]), 0, -1)


def symplecticity_defect(jacobian: np.ndarray) -> np.ndarray:
    """abs(det J - 1), (..., 2, 2) -> (...): in one degree of freedom a map is symplectic where it preserves area."""
    determinant = jacobian[..., 0, 0] * jacobian[..., 1, 1] - jacobian[..., 0, 1] * jacobian[..., 1, 0]
    return np.abs(determinant - 1.0)


def tangent_error(jacobian: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The Frobenius norm of J - J_reference over that of J_reference, (..., 2, 2) -> (...).

    A map can keep area and still shear wrongly: this sees it. `tangents.solve_tangents` gives the reference.
    """
    return np.linalg.norm(jacobian - reference, axis=(-2, -1)) / np.linalg.norm(reference, axis=(-2, -1))


def reversibility_defect(flow: Flow, q0: np.ndarray, p0: np.ndarray) -> np.ndarray:
    """The distance from the start after going forward, turning p round, and going forward again, (N,) -> (N, ...).

    max(abs(q - q0), abs(p + p0)), zero for exact motion, whose equations do not know the direction of time. A flow
    that answers at T times, (N, T), is sent back from each of them, by the time it took to get there.
    """
    q0, p0 = np.broadcast_arrays(np.asarray(q0, dtype=np.float64), np.asarray(p0, dtype=np.float64))
    q, p = flow(q0, p0)
    if np.ndim(q) == 1:
        back_q, back_p = flow(q, -p)
        return np.maximum(np.abs(back_q - q0), np.abs(back_p + p0))
    columns = [flow(q[:, k], -p[:, k]) for k in range(q.shape[1])]
    back_q, back_p = (np.stack([column[i][:, k] for k, column in enumerate(columns)], axis=1) for i in (0, 1))
    return np.maximum(np.abs(back_q - q0[:, None]), np.abs(back_p + p0[:, None]))
