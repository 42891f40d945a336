"""Hamiltonians H = p²/2 + V(q) with V given as text or as a Python function."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..solvers.problems import Potential
from .generic import sensor_positions


@dataclass(frozen=True)
class FunctionHamiltonians:
    """H = p²/2 + V(q) of R rows; the potentials have `value` and `gradient` for positions (T,), or (T, d) with d > 1."""

    potentials: Sequence[Potential]
    domain: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.potentials)

    def take(self, rows: np.ndarray) -> Self:
        return type(self)([self.potentials[row] for row in np.arange(len(self))[rows]], self.domain)

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        potential = np.stack([one.value(places) for one, places in zip(self.potentials, q, strict=True)])
        kinetic = 0.5 * np.square(p)
        return potential + (kinetic if kinetic.ndim == potential.ndim else kinetic.sum(axis=-1))

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([one.gradient(places) for one, places in zip(self.potentials, q, strict=True)]), p

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        places = sensor_positions(self.domain, sensors)
        return {"potential": np.stack([one.value(places) for one in self.potentials])}
