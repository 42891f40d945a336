"""Methods of fixed step: RK4 and three symplectic ones, on V itself and on the cubic spline through the sensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....solvers.fixed_step import integrate, integrate_batch_counted
from ...baselines import Baseline, States
from ...problems import Problems
from ..system import Wells
from .reconstructions import INTERPOLATED

# A force on a cubic curve: the piece, its parameter, a quadratic, and the multiply-adds of one stage.
FLOPS_PER_FORCE = 20
_METHODS = ("rk4", "stormer-verlet", "yoshida4", "gauss-legendre4")
_LADDER = (0.02, 0.005, 0.001)
_SYMPLECTIC_STEP = 0.02  # of the method that rollouts add, for its long-term energy


@dataclass(frozen=True)
class SteppedWells(Baseline):
    """Compiled, on all CPUs, where V is a curve."""

    step: float = 0.01

    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        q0, p0, times = problems.q0, problems.p0, problems.times
        if isinstance(hamiltonians, Wells):
            curves = [hamiltonians.curves[row] for row in range(len(times))]
            solution = integrate_batch_counted(curves, q0, p0, times, method=self.method, max_step=self.step)
            return States(solution.q, solution.p, solution.num_evaluations)
        orbits = [
            integrate(potential, q0[row], p0[row], times[row], method=self.method, max_step=self.step)
            for row, potential in enumerate(hamiltonians.potentials)
        ]
        return States(np.stack([q for q, _ in orbits]), np.stack([p for _, p in orbits]), np.zeros(len(orbits), dtype=np.int64))


def baselines(steps: Sequence[float]) -> list[Baseline]:
    """Each method on V at each step, RK4 also on the sensors; and the points of the work-precision diagram."""
    cubic, drawn = INTERPOLATED["cubic"], frozenset({"table", "figures", "studies", "rollouts"})
    found: list[Baseline] = [SteppedWells(f"{method}-oracle-{step:g}", method, step=step) for method in _METHODS for step in steps]
    for number, step in enumerate(steps):
        roles = drawn if number == 0 else frozenset({"table"})
        found.append(SteppedWells(f"rk4-sensors-{step:g}", "rk4", cubic, roles, step=step))
    name = f"stormer-verlet-sensors-{_SYMPLECTIC_STEP:g}"
    found.append(SteppedWells(name, "stormer-verlet", cubic, frozenset({"rollouts"}), step=_SYMPLECTIC_STEP))
    for reconstruction in (cubic, None):
        found += [
            SteppedWells(f"{method} {step:g}", method, reconstruction, frozenset({"work-precision"}), FLOPS_PER_FORCE, step=step)
            for method in _METHODS
            for step in _LADDER
        ]
    return found
