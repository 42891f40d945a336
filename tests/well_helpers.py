"""Rows of the well's ensembles, as many tests need them."""

import numpy as np

from neural_hamilton.physics.systems import Draws, draw_rows, get_system

WELL = get_system("well")


def draw(ensemble, seed, split, indices, *, fields=None, **settings):
    """Rows of the ensemble called `ensemble`; `fields` are its own keys, `settings` those of `draw_rows`."""
    return draw_rows(WELL, WELL.get_ensemble(ensemble)(**(fields or {})), seed, split, indices, **settings)[0]


def draw_polygons(ensemble, seed, split, indices, **fields):
    """Control polygons, length scales and depths, without solving for any orbit."""
    return WELL.get_ensemble(ensemble)(**fields).draw_polygons(Draws(seed, split, np.asarray(indices)))


def polygon(rows, row):
    """Control abscissae and heights of one row, without padding."""
    inside = ~np.isnan(rows.control_q[row])
    return rows.control_q[row, inside], rows.control_v[row, inside]
