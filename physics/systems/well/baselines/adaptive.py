"""DOP853, which chooses its own steps: at a tolerance where what is left of its error is that of the reconstruction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....solvers.adaptive import integrate_adaptive_batch
from ....solvers.fixed_step import integrate
from ...baselines import Baseline, Role, States
from ...problems import Problems
from ..system import Wells
from .fixed_step import FLOPS_PER_FORCE
from .reconstructions import INTERPOLATED, PRIOR_FIT

_TIGHT = 1e-10
_LADDER = (1e-4, 1e-7, 1e-10)
_ROLES: dict[str, set[Role]] = {
    "cubic": {"figures", "studies", "rollouts"},
    "hermite": {"figures"},
    "prior-fit": {"figures", "studies", "rollouts"},
}


@dataclass(frozen=True)
class AdaptiveSteps(Baseline):
    """Compiled, on all CPUs, where V is a curve."""

    tolerance: float = _TIGHT

    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        q0, p0, times = problems.q0, problems.p0, problems.times
        if isinstance(hamiltonians, Wells):
            solution = integrate_adaptive_batch(
                [hamiltonians.curves[row] for row in range(len(times))], q0, p0, times, tolerance=self.tolerance
            )
            return States(solution.q, solution.p, solution.num_evaluations)
        orbits = [
            integrate(potential, q0[row], p0[row], times[row], method="scipy-dop853", tolerance=self.tolerance)
            for row, potential in enumerate(hamiltonians.potentials)
        ]
        return States(np.stack([q for q, _ in orbits]), np.stack([p for _, p in orbits]), np.zeros(len(orbits), dtype=np.int64))


def baselines(steps: Sequence[float]) -> list[Baseline]:
    """On V itself and on each reconstruction; and at several tolerances for the work-precision diagram."""
    found: list[Baseline] = [AdaptiveSteps("dop853-oracle", "dop853")]
    for name, reconstruction in [*INTERPOLATED.items(), ("prior-fit", PRIOR_FIT)]:
        roles = frozenset({"table", "reconstructions"} | _ROLES.get(name, set()))
        found.append(AdaptiveSteps(f"dop853-{name}", "dop853", reconstruction, roles))
    for reconstruction in (INTERPOLATED["cubic"], None):
        found += [
            AdaptiveSteps(
                f"dop853 {tolerance:g}", "dop853", reconstruction, frozenset({"work-precision"}), FLOPS_PER_FORCE, tolerance=tolerance
            )
            for tolerance in _LADDER
        ]
    return found
