"""V rebuilt from its sensors: by an interpolant that assumes nothing else of V, or by a fit of the family it was drawn from."""

from functools import partial

import numpy as np

from ....potentials.curves import Curves
from ....potentials.interpolants import INTERPOLANTS
from ...baselines import Reconstruction
from ...problems import Problems
from ..polygons import WALL_HEIGHT, RandomPolygons
from ..prior_fit import fit_prior
from ..system import Wells

_DESCRIPTIONS = {
    "cubic": "a C² cubic spline",
    "hermite": "piecewise cubics with parabolic slopes",
    "pchip": "piecewise cubics that never overshoot",
    "quintic": "a C⁴ quintic spline",
}


def _interpolate(kind: str, problems: Problems) -> Wells:
    """Noisy readings are replaced by V = 2 at the walls, or else particles would escape."""
    values = problems.fields["potential"]
    if problems.noise > 0.0:
        values = values.copy()
        values[:, [0, -1]] = WALL_HEIGHT
    return Wells(Curves.from_samples(values, kind))


def _fit(problems: Problems) -> Wells:
    """The cubic spline stands in where no curve of the family explains the readings."""
    assert isinstance(problems.ensemble, RandomPolygons)
    values = problems.fields["potential"]
    fit = fit_prior(values, wall_height=WALL_HEIGHT, noise=problems.noise, control_points=problems.ensemble.control_points)
    if fit.explained.all():
        return Wells(fit.curves)
    splines = Curves.from_samples(values[~fit.explained], "cubic")
    rows = np.arange(len(values))
    rows[~fit.explained] = len(values) + np.arange(len(splines))
    return Wells(Curves.join([fit.curves, splines]).take(rows))


def _draws_polygons(problems: Problems) -> str | None:
    if isinstance(problems.ensemble, RandomPolygons):
        return None
    return f"it fits the control polygons of an ensemble, and ensemble {problems.ensemble.name!r} draws none"


INTERPOLATED = {
    kind: Reconstruction(kind, _DESCRIPTIONS[kind], partial(_interpolate, kind), fewest) for kind, (fewest, _) in INTERPOLANTS.items()
}
PRIOR_FIT = Reconstruction(
    "prior-fit", "a least-squares fit within the family of curves that the problems are drawn from", _fit, 4, _draws_polygons
)
