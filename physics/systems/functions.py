"""Hamiltonians H = p²/2 + V(q) with V given as text or as a Python function."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from ..errors import InputError
from ..potentials.expressions import Expression
from ..potentials.programs import pack_programs, program_rates, run_programs
from ..solvers.flows import Rates
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

    @cached_property
    def packed(self) -> np.ndarray:
        """The texts as programs (R, m), which `flow` reads."""
        return pack_programs([one.program for one in self.potentials if isinstance(one, Expression)])

    @property
    def flow(self) -> Rates | None:
        """The compiled equations of motion (`solvers.flows`); None unless all potentials are texts."""
        return program_rates if all(isinstance(one, Expression) for one in self.potentials) else None

    def energy_anywhere(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        """H along trajectories, (R, T), as `energy`; inf or nan, not an error, where V has no finite value."""
        if self.flow is None:
            try:
                return self.energy(q, p)
            except InputError:
                return np.full(q.shape[:2], np.nan)
        places = q.reshape(*q.shape[:2], len(self.domain))
        with np.errstate(all="ignore"):
            return run_programs(self.packed, places) + 0.5 * np.square(p).reshape(places.shape).sum(axis=-1)

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        potential = np.stack([one.value(places) for one, places in zip(self.potentials, q, strict=True)])
        kinetic = 0.5 * np.square(p)
        return potential + (kinetic if kinetic.ndim == potential.ndim else kinetic.sum(axis=-1))

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([one.gradient(places) for one, places in zip(self.potentials, q, strict=True)]), p

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        places = sensor_positions(self.domain, sensors)
        return {"potential": np.stack([one.value(places) for one in self.potentials])}
