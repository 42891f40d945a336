"""The quadrature baseline: what mechanics alone gives from the sensors, before a network has learnt anything.

V is interpolated by local polynomials through the sensors, and the orbit follows by the same quadrature that OrbitNet takes after
its correction of V. The difference between the two is what OrbitNet has learnt.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...architectures import Operator
from ...architectures.layers.orbit_quadrature import quadrature_orbit
from ...architectures.orbitnet import OrbitNet
from ...physics.systems import Baseline, Problems, Reconstruction, States, roles
from ..data.datasets import stack_fields

QUADRATURE = "quadrature"


@dataclass(frozen=True)
class _Readings:
    """V at the sensors of R rows, (R, S), which the quadrature interpolates itself."""

    potential: np.ndarray

    def take(self, rows: np.ndarray) -> "_Readings":
        return _Readings(self.potential[rows])


LOCAL_POLYNOMIALS = Reconstruction(
    "local-polynomials",
    "local polynomials through the sensors",
    lambda problems: _Readings(stack_fields(problems.fields, problems.system)),
    4,
)


@dataclass(frozen=True, eq=False)
class Quadrature(Baseline):
    """The orbit in batches of `batch_size`, in the precision of `model`."""

    model: Any = None
    batch_size: int = 256

    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        dtype, parts = self.model.dtype, []
        for rows in np.split(np.arange(len(problems)), range(self.batch_size, len(problems), self.batch_size)):
            arrays = hamiltonians.potential[rows], problems.times[rows], problems.initial[rows]
            with torch.inference_mode():
                potential, times, initial = (torch.tensor(array, dtype=dtype) for array in arrays)
                states = quadrature_orbit(potential, times, initial, self.model.task)
            parts.append(states.double().numpy())
        q, p = np.concatenate(parts).transpose(2, 0, 1)
        return States(q, p, np.zeros(len(problems), dtype=np.int64))


def built_in_baselines(model: Operator, batch_size: int) -> list[Baseline]:
    """The baselines that a network has built in and corrects: the quadrature for OrbitNet, none for others."""
    if not isinstance(model, OrbitNet):
        return []
    own = roles("table", "figures")
    return [Quadrature(QUADRATURE, "quadrature", LOCAL_POLYNOMIALS, own, model=model, batch_size=batch_size)]
