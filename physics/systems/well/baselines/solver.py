"""Any method of `physics.solvers` as a baseline of the well."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ....solvers.solve import solve
from ...baselines import Baseline, States
from ...problems import Problems
from ..system import Wells

# A force on a cubic curve: the piece, its parameter, a quadratic, and the multiply-adds of one stage.
FLOPS_PER_FORCE = 20


@dataclass(frozen=True)
class WellSolver(Baseline):
    """`method` with its `step`, or with a `tolerance` where it chooses its steps. Compiled, on all CPUs, where V is a curve."""

    step: float | None = None
    tolerance: float | None = None

    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        orbits, settings = (problems.q0, problems.p0, problems.times), (self.method, self.step, self.tolerance)
        if isinstance(hamiltonians, Wells):
            return _solve(hamiltonians.curves, *orbits, *settings)
        rows = zip(hamiltonians.potentials, *orbits, strict=True)
        return States(*(np.stack(part) for part in zip(*(_solve(*row, *settings) for row in rows), strict=True)))


def _solve(potential: Any, q0: Any, p0: Any, times: np.ndarray, method: str, step: float | None, tolerance: float | None) -> States:
    return States(*solve(potential, q0, p0, times, method=method, step=step, tolerance=tolerance))
