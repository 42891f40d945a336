"""The first-order scheme behind the "RK4" of arXiv 2410.20951, as it was run."""

from collections.abc import Sequence

from ...baselines import Baseline, roles
from .reconstructions import INTERPOLATED
from .solver import WellSolver

PUBLISHED = "rk4-as-published"
PUBLISHED_STEP = 1e-4


def baselines(steps: Sequence[float]) -> list[Baseline]:
    """One scheme at the step of the publication, whatever `steps` are."""
    return [WellSolver(PUBLISHED, PUBLISHED, INTERPOLATED["cubic"], roles("table", "figures"), step=PUBLISHED_STEP)]
