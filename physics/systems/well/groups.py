"""Where orbits of the well are hard: by their energy, and by their distance from a separatrix."""

from itertools import pairwise

import numpy as np

from ..base import Group
from ..problems import Problems
from .system import Wells

_EDGES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)


def group_by_stratum(problems: Problems) -> Group | None:
    """The stratum of energies that an orbit was drawn from; None for an ensemble without strata."""
    stratum = np.asarray(problems.columns.get("stratum", []))
    labels = {str(k): stratum == k for k in np.unique(stratum) if k >= 0}
    return Group("stratum", "energy stratum", labels) if labels else None


def group_by_separatrix(problems: Problems) -> Group | None:
    """The distance in energy from the nearest barrier top, as a fraction of the depth of the well.

    At a distance of 0 an orbit takes for ever to reach the top; near it, every prediction is ill-conditioned.
    """
    if not isinstance(problems.hamiltonians, Wells):
        return None
    distance = problems.hamiltonians.curves.separatrix_distance(problems.energy) / problems.energy_scale
    rows = {f"{low:g} to {high:g}": (low <= distance) & (distance < high) for low, high in pairwise(_EDGES)}
    last = _EDGES[-1]
    rows |= {f"{last:g} and more": (distance >= last) & np.isfinite(distance), "no barrier": np.isinf(distance)}
    return Group("separatrix", "distance in energy from a barrier's top / depth of the well", rows)


def groups(problems: Problems) -> list[Group]:
    """Those that apply to these problems."""
    return [group for group in (group_by_stratum(problems), group_by_separatrix(problems)) if group is not None]
