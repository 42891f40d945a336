"""What is asked of networks and solvers alike: potentials, starts and times, with the certified truth.

Shapes: N problems, S sensors, T query times.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...physics import Curves
from ...physics.systems import Ensemble, draw_rows, get_system
from ..config.data import DataConfig
from ..data.datasets import Split


@dataclass(frozen=True)
class Problems:
    """N problems. `exact` is the potential itself; `sensors` (N, S), its readings, is all that a network sees of it.

    times, q, p (N, T) and initial (N, 2) are float64; `energy` (N,) is H at the start; `floor` is the mean total loss
    that exact answers could be charged with, from the integration error and the rounding of the labels. `control_points`
    are the fewest and the most of the family that a fit may look in, `noise` the standard deviation of the readings' noise.
    """

    exact: Curves
    sensors: np.ndarray
    times: np.ndarray
    initial: np.ndarray
    q: np.ndarray
    p: np.ndarray
    energy: np.ndarray
    stratum: np.ndarray
    floor: float
    control_points: tuple[int, int] = (2, 7)
    noise: float = 0.0

    @classmethod
    def of_split(cls, split: Split, manifest: dict[str, Any]) -> "Problems":
        """The rows of a dataset, as stored; its manifest says how they were drawn and read."""
        times, q, p, sensors = (x.astype(np.float64) for x in (split.times, split.q, split.p, split.potential))
        exact = _curves_of(split)
        drawn = DataConfig.model_validate(manifest["config"])
        known = drawn.ensemble.control_points, drawn.noise
        return cls(exact, sensors, times, split.initial, q, p, split.energy, split.own["stratum"], truth_floor(split), *known)

    @classmethod
    def draw(cls, ensemble: Ensemble, seed: int, count: int, num_sensors: int) -> "Problems":
        """The first `count` test problems of an ensemble, with float64 labels."""
        rows, _ = draw_rows(get_system("well"), ensemble, seed, "test", np.arange(count))
        floor = float(np.mean(rows.integration_error**2))
        unread = cls(
            rows.hamiltonians.curves,
            np.empty((count, 0)),
            rows.times,
            np.stack([rows.q0, rows.p0], 1),
            rows.q,
            rows.p,
            rows.energy,
            rows.stratum,
            floor,
        )
        return unread.at_sensors(num_sensors)

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def distinct_times(self) -> np.ndarray:
        """(1, T) where all problems share their query times, so that networks may use it, else (N, T)."""
        return self.times[:1] if np.all(self.times == self.times[:1]) else self.times

    @cached_property
    def lowest(self) -> np.ndarray:
        """min V between the walls, (N,)."""
        return self.exact.extrema()[0]

    def take(self, rows: slice | np.ndarray) -> "Problems":
        """Some of the problems; an array may repeat them."""
        chosen = np.arange(len(self))[rows]
        arrays = {name: getattr(self, name)[chosen] for name in ("sensors", "times", "initial", "q", "p", "energy", "stratum")}
        return replace(self, exact=self.exact.take(chosen), **arrays)

    def at_sensors(self, num_sensors: int, noise: float = 0.0, seed: int = 0) -> "Problems":
        """The same problems read by other sensors: `num_sensors` of them, rounded to float32 as datasets are, with Gaussian noise."""
        readings = self.exact.sample(np.linspace(0.0, 1.0, num_sensors))
        readings += noise * np.random.default_rng([seed, num_sensors]).standard_normal(readings.shape)
        return replace(self, sensors=readings.astype(np.float32).astype(np.float64), noise=noise)


def truth_floor(split: Split) -> float:
    """The mean total loss that exact answers could be charged with: integration error and rounding of the labels.

    A loss below this says nothing about the model.
    """
    unit = float(np.finfo(split.q.dtype).eps) / 2
    error = split.integration_error[:, None]
    squares = [(error + unit * np.abs(states.astype(np.float64))) ** 2 for states in (split.q, split.p)]
    return float(0.5 * (squares[0] + squares[1]).mean())


def _curves_of(split: Split) -> Curves:
    """The exact potentials of a dataset's rows, from their control polygons of various lengths."""
    counts = np.array([len(control_q) for control_q, _ in split.control])
    control = np.zeros((2, counts.size, counts.max(initial=4)))
    for row, polygon in enumerate(split.control):
        control[:, row, : counts[row]] = polygon
    return Curves.from_control_points(control[0], control[1], counts)
