"""Several objectives, all minimised: which points dominate which, and an order of all.

Shapes: N points, K objectives.
"""

import numpy as np
from scipy.stats import rankdata


def front_numbers(values: np.ndarray) -> np.ndarray:
    """Of each point of (N, K) the number of its front, (N,): 0 where no other is as good in everything and better in something.

    Without the points of the fronts before it, a front is what nothing dominates (non-dominated sorting, Srinivas and Deb 1994).
    """
    one, other = values[:, None], values[None]
    dominates = np.logical_and(np.all(one <= other, axis=2), np.any(one < other, axis=2))
    fronts = np.full(len(values), -1)
    for front in range(len(values)):
        left = fronts < 0
        if not left.any():
            break
        fronts[left & ~np.any(dominates[left], axis=0)] = front
    return fronts


def order_by_fronts(values: np.ndarray) -> list[int]:
    """The indices of the points of (N, K), front by front; those of a front so that the first few lie far apart.

    As in multi-objective successive halving (Schmucker et al., arXiv 2106.12639): the first is the best in the first objective, and
    each next one has the largest distance to those before it. Objectives have different units, so distances are of ranks.
    """
    fronts = front_numbers(values)
    return [int(index) for front in range(fronts.max(initial=-1) + 1) for index in _spread(values, np.flatnonzero(fronts == front))]


def _spread(values: np.ndarray, members: np.ndarray) -> list[int]:
    ranks = rankdata(values[members], axis=0)
    chosen = [int(np.argmin(values[members, 0]))]
    distances = np.linalg.norm(ranks - ranks[chosen[0]], axis=1)
    while len(chosen) < len(members):
        distances[chosen] = -1.0
        chosen.append(int(np.argmax(distances)))
        distances = np.minimum(distances, np.linalg.norm(ranks - ranks[chosen[-1]], axis=1))
    return [int(members[index]) for index in chosen]
