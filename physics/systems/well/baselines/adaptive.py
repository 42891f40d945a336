"""DOP853, which chooses its own steps: at a tolerance where what is left of its error is that of the reconstruction."""

from collections.abc import Sequence

from ....solvers.solve import ADAPTIVE
from ...baselines import Baseline, Role, roles
from .reconstructions import INTERPOLATED, PRIOR_FIT
from .solver import FLOPS_PER_FORCE, WellSolver

_TIGHT = 1e-10
_LADDER = (1e-4, 1e-7, 1e-10)
_ROLES: dict[str, tuple[Role, ...]] = {
    "cubic": ("figures", "studies", "rollouts"),
    "hermite": ("figures",),
    "prior-fit": ("figures", "studies", "rollouts"),
}


def baselines(steps: Sequence[float]) -> list[Baseline]:
    """On V itself and on each reconstruction, whatever `steps` are; and points of the work-precision diagram."""
    found: list[Baseline] = [WellSolver("dop853-oracle", ADAPTIVE, tolerance=_TIGHT)]
    for reconstruction in (*INTERPOLATED.values(), PRIOR_FIT):
        own = roles("table", "reconstructions", *_ROLES.get(reconstruction.name, ()))
        found.append(WellSolver(f"dop853-{reconstruction.name}", ADAPTIVE, reconstruction, own, tolerance=_TIGHT))
    for reconstruction in (INTERPOLATED["cubic"], None):
        for tolerance in _LADDER:
            own = roles("work-precision")
            found.append(WellSolver(f"dop853 {tolerance:g}", ADAPTIVE, reconstruction, own, FLOPS_PER_FORCE, tolerance=tolerance))
    return found
