"""Figures of merit of a trajectory; batched over leading axes."""

import numpy as np


def total_loss(q: np.ndarray, p: np.ndarray, true_q: np.ndarray, true_p: np.ndarray) -> np.ndarray:
    """Half the sum of the mean squared errors of q and p over the last axis, (..., T) -> (...)."""
    return 0.5 * (np.mean((q - true_q) ** 2, axis=-1) + np.mean((p - true_p) ** 2, axis=-1))


def energy_drift(value: np.ndarray, p: np.ndarray, energy: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """max over the last axis of abs(H - H0) / (2 - min V), with V along the orbit in `value` (..., T)."""
    hamiltonian = 0.5 * p**2 + value
    return np.max(np.abs(hamiltonian - np.asarray(energy)[..., None]), axis=-1) / (2.0 - lowest)
