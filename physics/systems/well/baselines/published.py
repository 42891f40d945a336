"""The first-order scheme behind the "RK4" of arXiv 2410.20951, as it was run."""

from collections.abc import Sequence

from ...baselines import Baseline
from .fixed_step import SteppedWells
from .reconstructions import INTERPOLATED

PUBLISHED_STEP = 1e-4


def baselines(steps: Sequence[float]) -> list[Baseline]:
    """One scheme at the step of the publication, whatever `steps` are."""
    roles = frozenset({"table", "figures"})
    return [SteppedWells("rk4-as-published", "rk4-as-published", INTERPOLATED["cubic"], roles, step=PUBLISHED_STEP)]
