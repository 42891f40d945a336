"""Problems as networks and baselines see them: Hamiltonians, readings of their sensors, initial states and query times, with the truth.

Shapes: N problems, T query times, d degrees of freedom. Positions and momenta are (N, T), or (N, T, d) with d > 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .base import Ensemble, System

if TYPE_CHECKING:
    from .baselines import Reconstruction


class Predictions(NamedTuple):
    """q, p of N problems in float64, the seconds that one of them took, and the forces evaluated (N,), where a solver counts them."""

    q: np.ndarray
    p: np.ndarray
    seconds_each: float
    num_evaluations: np.ndarray | None = None


class Rebuilt(NamedTuple):
    """The Hamiltonians that a reconstruction made of N problems' sensors, and the seconds that one of them took."""

    hamiltonians: Any
    seconds_each: float


@dataclass(frozen=True, eq=False)
class Problems:
    """N problems of one system.

    Attributes
    ----------
    ensemble
        The distribution that the Hamiltonians may be assumed to come from.
    hamiltonians
        The exact ones, where they are known.
    fields
        What the sensors read, as `Hamiltonians.sense` returns it: all that a network sees of a Hamiltonian.
    noise
        Standard deviation of the noise in `fields`.
    q0, p0, times
        Initial states (N,) or (N, d), and sorted query times (N, T).
    q, p, energy
        The true states, and H at the initial states (N,).
    columns
        The system's own columns, by which it may group problems; empty where they are unknown.
    floor
        The mean total loss of a perfect prediction, from the integration error and the rounding of the labels.
    has_exact_hamiltonians
        Whether `hamiltonians` are exact. Those of imported rows interpolate between the sensors.
    reconstructions
        What `rebuilt` has made of the fields so far, by name.
    """

    system: System
    ensemble: Ensemble
    hamiltonians: Any
    fields: dict[str, np.ndarray]
    noise: float
    q0: np.ndarray
    p0: np.ndarray
    times: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy: np.ndarray
    columns: Mapping[str, Any] = field(default_factory=dict)
    floor: float = 0.0
    has_exact_hamiltonians: bool = True
    reconstructions: dict[str, Rebuilt] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def sensors(self) -> tuple[int, ...]:
        """Sensors along each axis."""
        return next(iter(self.fields.values())).shape[-self.system.degrees_of_freedom :]

    @property
    def initial(self) -> np.ndarray:
        """Initial states as networks read them, (N, 2d): q0, then p0."""
        return np.concatenate([x.reshape(len(self), -1) for x in (self.q0, self.p0)], axis=1)

    @property
    def distinct_times(self) -> np.ndarray:
        """(1, T) where all problems share their query times, so that networks may use it, else (N, T)."""
        return self.times[:1] if np.all(self.times == self.times[:1]) else self.times

    @cached_property
    def energy_scale(self) -> np.ndarray:
        """The energy that drifts are relative to, (N,)."""
        return self.system.energy_scale(self.hamiltonians)

    def take(self, rows: slice | np.ndarray) -> "Problems":
        """Some of the problems; an array may repeat them."""
        chosen = np.arange(len(self))[rows]
        arrays = {name: getattr(self, name)[chosen] for name in ("q0", "p0", "times", "q", "p", "energy")}
        fields = {name: values[chosen] for name, values in self.fields.items()}
        columns = {
            name: values[chosen] if isinstance(values, np.ndarray) else [values[row] for row in chosen]
            for name, values in self.columns.items()
        }
        known = {name: Rebuilt(x.hamiltonians.take(chosen), x.seconds_each) for name, x in self.reconstructions.items()}
        taken = self.hamiltonians.take(chosen)
        return replace(self, hamiltonians=taken, fields=fields, columns=columns, reconstructions=known, **arrays)

    def at_sensors(self, sensors: tuple[int, ...], noise: float = 0.0, seed: int = 0) -> "Problems":
        """The same problems read by other sensors: rounded to float32 as datasets are, with Gaussian noise."""
        fields, rng = self.hamiltonians.sense(sensors), np.random.default_rng([seed, *sensors])
        if noise:
            fields = {name: values + noise * rng.standard_normal(values.shape) for name, values in fields.items()}
        fields = {name: values.astype(np.float32).astype(np.float64) for name, values in fields.items()}
        return replace(self, fields=fields, noise=noise, reconstructions={})

    def rebuilt(self, reconstruction: "Reconstruction") -> Rebuilt:
        """The Hamiltonians that `reconstruction` makes of the fields; computed and timed once."""
        if reconstruction.name not in self.reconstructions:
            self.reconstructions[reconstruction.name] = reconstruction.time(self)
        return self.reconstructions[reconstruction.name]
