"""Methods of fixed step: RK4 and three symplectic ones, on V itself and on the cubic spline through the sensors."""

from collections.abc import Sequence

from ...baselines import Baseline, roles
from .reconstructions import INTERPOLATED
from .solver import FLOPS_PER_FORCE, WellSolver

_METHODS = ("rk4", "stormer-verlet", "yoshida4", "gauss-legendre4")
_LADDER = (0.02, 0.005, 0.001)
_SYMPLECTIC_STEP = 0.02  # of the method that rollouts add, for its long-term energy


def baselines(steps: Sequence[float]) -> list[Baseline]:
    """Each method on V at each step, RK4 also on the sensors; and points of the work-precision diagram."""
    cubic, drawn = INTERPOLATED["cubic"], roles("table", "figures", "studies", "rollouts")
    found: list[Baseline] = [WellSolver(f"{method}-oracle-{step:g}", method, step=step) for method in _METHODS for step in steps]
    for number, step in enumerate(steps):
        own = drawn if number == 0 else roles("table")
        found.append(WellSolver(f"rk4-sensors-{step:g}", "rk4", cubic, own, step=step))
    name = f"stormer-verlet-sensors-{_SYMPLECTIC_STEP:g}"
    found.append(WellSolver(name, "stormer-verlet", cubic, roles("rollouts"), step=_SYMPLECTIC_STEP))
    for reconstruction in (cubic, None):
        for method in _METHODS:
            for step in _LADDER:
                own = roles("work-precision")
                found.append(WellSolver(f"{method} {step:g}", method, reconstruction, own, FLOPS_PER_FORCE, step=step))
    return found
