"""V rebuilt from its sensors: by an interpolant that assumes nothing else of V, or by a fit of the family it was drawn from."""

from functools import partial

from ....potentials.curve_batches import CurveBatch
from ....potentials.interpolants import INTERPOLANTS, interpolate_sensors
from ....potentials.prior_fit import fit_prior
from ...baselines import Reconstruction
from ...problems import Problems
from ..polygons import WALL_HEIGHT, RandomPolygons
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
    return Wells(CurveBatch.stack(interpolate_sensors(values, kind)))


def _fit(problems: Problems) -> Wells:
    """The cubic spline stands in where no curve of the family explains the readings."""
    assert isinstance(problems.ensemble, RandomPolygons)
    values = problems.fields["potential"]
    fit = fit_prior(values, noise=problems.noise, control_points=problems.ensemble.control_points)
    splines = iter(interpolate_sensors(values[~fit.explained], "cubic") if not fit.explained.all() else [])
    return Wells(CurveBatch.stack([curve if known else next(splines) for curve, known in zip(fit.curves, fit.explained, strict=True)]))


def _draws_polygons(problems: Problems) -> str | None:
    if isinstance(problems.ensemble, RandomPolygons):
        return None
    return f"it fits the control polygons of an ensemble, and ensemble {problems.ensemble.name!r} draws none"


INTERPOLATED = {
    kind: Reconstruction(kind, _DESCRIPTIONS[kind], partial(_interpolate, kind), max(fewest, 4))
    for kind, (fewest, _) in INTERPOLANTS.items()
}
PRIOR_FIT = Reconstruction(
    "prior-fit", "a least-squares fit within the family of curves that the problems are drawn from", _fit, 4, _draws_polygons
)
