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
    """The Frobenius norm of J^T Omega J - Omega over that of Omega, (..., 2d, 2d) -> (...).

    Zero for exact motion of any number of degrees of freedom. With one it is abs(det J - 1): the motion preserves area.
    """
    d = jacobian.shape[-1] // 2
    by_q, by_p = jacobian[..., :d, :], jacobian[..., d:, :]  # how q and p change with each component of the initial state
    form = np.einsum("...ki,...kj->...ij", by_q, by_p) - np.einsum("...ki,...kj->...ij", by_p, by_q)
    rows, columns = np.triu_indices(2 * d, k=1)  # the form is antisymmetric
    defect = form[..., rows, columns] - (columns == rows + d)
    return np.sqrt(np.sum(defect**2, axis=-1) / d)


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
