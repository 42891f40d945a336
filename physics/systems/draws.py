"""Random numbers by address: every number has its fixed place in a counter-based stream.

The streams are Philox generators keyed by (seed, split, purpose), with the counter set from the row's index and the attempt.
A row therefore does not depend on which rows were drawn before it, with it, by whom, or in what order, and many rows are
drawn at once.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtri

SPLITS = ("train", "val", "test")


class _Stream(IntEnum):
    HAMILTONIAN = 0
    ORBIT = 1
    NOISE = 2


@dataclass(frozen=True)
class Draws:
    """The random numbers of the rows `indices` (R,) of a split, at one attempt.

    `orbits_per_hamiltonian` consecutive rows share a Hamiltonian. Where it is above 1, a rejected row draws only its orbit
    again: its Hamiltonian belongs to other rows too.
    """

    seed: int
    split: str
    indices: np.ndarray
    attempt: int = 0
    orbits_per_hamiltonian: int = 1

    @cached_property
    def hamiltonian_index(self) -> np.ndarray:
        """Which Hamiltonian of the split each row has, (R,)."""
        return self.indices // self.orbits_per_hamiltonian

    @property
    def orbit_index(self) -> np.ndarray:
        """Which orbit of its Hamiltonian each row is, (R,)."""
        return self.indices % self.orbits_per_hamiltonian

    def distinct(self) -> tuple["Draws", np.ndarray]:
        """Draws with one row for each of the U Hamiltonians, and which of them each row has, (R,)."""
        unique, owner = np.unique(self.hamiltonian_index, return_inverse=True)
        attempt = self.attempt if self.orbits_per_hamiltonian == 1 else 0
        return Draws(self.seed, self.split, unique, attempt), owner

    def hamiltonian(self, count: int) -> np.ndarray:
        """Uniform numbers in (0, 1) for each row's Hamiltonian, (R, count); rows that share it share them."""
        if self.orbits_per_hamiltonian == 1:
            return self._uniforms(_Stream.HAMILTONIAN, count)
        distinct, owner = self.distinct()
        return distinct.hamiltonian(count)[owner]

    def orbit(self, count: int) -> np.ndarray:
        """Uniform numbers in (0, 1) for each row's initial state and query times, (R, count)."""
        return self._uniforms(_Stream.ORBIT, count)

    def noise(self, count: int) -> np.ndarray:
        """Standard normal numbers for the noise on each row's sensors, (R, count)."""
        return ndtri(self._uniforms(_Stream.NOISE, count))

    def _uniforms(self, stream: _Stream, count: int) -> np.ndarray:
        blocks = -(-count // 4)  # a step of the counter gives four numbers
        key = [self.seed, SPLITS.index(self.split) * len(_Stream) + stream]
        runs = np.split(self.indices, np.flatnonzero(np.diff(self.indices) != 1) + 1)
        draws = [
            np.random.Generator(np.random.Philox(key=key, counter=[int(run[0]) * blocks, self.attempt, 0, 0])).random(
                (run.size, 4 * blocks)
            )
            for run in runs
            if run.size
        ]
        return np.maximum(np.concatenate(draws)[:, :count], 2.0**-54)  # zero would be an infinite normal


def between(uniform: np.ndarray, bounds: Any) -> np.ndarray:
    """Uniform numbers stretched to [low, high)."""
    low, high = bounds
    return low + uniform * (high - low)


def random_times(uniform: np.ndarray, horizon: float) -> np.ndarray:
    """Sorted query times (R, T) with 0 and the horizon among them, from uniform numbers (R, T - 2) for the others."""
    inner = np.sort(horizon * uniform, axis=1)
    return np.pad(inner, ((0, 0), (1, 1)), constant_values=(0.0, horizon))
