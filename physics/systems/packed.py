"""Hamiltonians as rows of numbers, which compiled equations of motion read.

Shapes: R rows, n numbers of each, d degrees of freedom.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from .generic import sensor_positions


@dataclass(frozen=True)
class PackedHamiltonians:
    """Hamiltonians of R rows; `packed` (R, n) holds the constants of each."""

    packed: np.ndarray

    def __len__(self) -> int:
        return len(self.packed)

    def take(self, rows: np.ndarray) -> Self:
        return type(self)(self.packed[np.arange(len(self))[rows]])


@dataclass(frozen=True)
class PackedPotentials(PackedHamiltonians, ABC):
    """H = |p|²/2 + V(q). Subclasses implement `potential`, and name the domain over which sensors lie."""

    domain: ClassVar[tuple[tuple[float, float], ...]]

    @abstractmethod
    def potential(self, q: np.ndarray) -> np.ndarray:
        """V at positions (R, ..., d)."""

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        return 0.5 * np.square(p).sum(axis=-1) + self.potential(q)

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        places = sensor_positions(self.domain, sensors)
        return {"potential": self.potential(np.broadcast_to(places, (len(self), *places.shape)))}
