"""Hamiltonians H = p²/2 + V(q) with V given as text or as a Python function."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from ..errors import InputError
from ..potentials.expressions import Expression
from ..potentials.functions import FunctionPotential
from ..potentials.programs import pack_programs, program_rates, run_programs
from ..solvers.flows import Rates
from ..solvers.problems import Potential
from .generic import sensor_positions

_PLACES = 4_096  # of the domain, at which a program is compared with the function that it was recorded from
_ROUNDING = 1e-12


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
    def _programs(self) -> list[np.ndarray] | None:
        """The potentials as programs; None unless all of them can be."""
        programs: list[np.ndarray] = []
        for one in self.potentials:
            found = one.program if isinstance(one, Expression | FunctionPotential) else None
            if found is None or not (isinstance(one, Expression) or self._agrees(one, found)):
                return None
            programs.append(found)
        return programs

    def _agrees(self, potential: Potential, program: np.ndarray) -> bool:
        """Whether a program is the function that it was recorded from, as far as values on a grid tell."""
        count = _PLACES if len(self.domain) == 1 else round(_PLACES ** (1 / len(self.domain)))
        places = sensor_positions(self.domain, (count,) * len(self.domain))
        values = run_programs(program[None], places.reshape(1, -1, len(self.domain)))[0]
        return np.allclose(values, np.ravel(potential.value(places)), rtol=_ROUNDING, atol=_ROUNDING)

    @cached_property
    def packed(self) -> np.ndarray:
        """The programs (R, m) that `flow` reads."""
        return pack_programs(self._programs or [])

    @property
    def flow(self) -> Rates | None:
        """The compiled equations of motion (`solvers.flows`); None unless all potentials are texts, or functions like them."""
        return None if self._programs is None else program_rates

    def energy_anywhere(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        """H along trajectories, (R, T), as `energy`; inf or nan, not an error, where V has no finite value."""
        if self.flow is None:
            try:
                return self.energy(q, p)
            except InputError:
                return np.full(q.shape[:2], np.nan)
        with np.errstate(all="ignore"):
            return run_programs(self.packed, self._places(q)) + self._kinetic(p)

    def energy(self, q: np.ndarray, p: np.ndarray) -> np.ndarray:
        return self._values(q) + self._kinetic(p)

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([one.gradient(places) for one, places in zip(self.potentials, q, strict=True)]), p

    def sense(self, sensors: tuple[int, ...]) -> dict[str, np.ndarray]:
        places = sensor_positions(self.domain, sensors)
        return {"potential": self._values(np.broadcast_to(places, (len(self), *places.shape)))}

    def _values(self, q: np.ndarray) -> np.ndarray:
        """V at positions (R, ...), or (R, ..., d) with d > 1. InputError, from the potentials, where it is not finite."""
        if self._programs is not None:
            values = run_programs(self.packed, self._places(q))
            if np.isfinite(values).all():
                return values.reshape(q.shape if len(self.domain) == 1 else q.shape[:-1])
        return np.stack([one.value(places) for one, places in zip(self.potentials, q, strict=True)])

    def _places(self, q: np.ndarray) -> np.ndarray:
        """Positions as (R, T, d)."""
        return q.reshape(len(self), -1, len(self.domain))

    def _kinetic(self, p: np.ndarray) -> np.ndarray:
        squares = 0.5 * np.square(p)
        return squares if len(self.domain) == 1 else squares.sum(axis=-1)
