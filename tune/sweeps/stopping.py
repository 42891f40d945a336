"""Early stopping: whether a trial goes on is a pure function of what all trials of the study have reported.

A rung is an epoch at which a trial is judged: its objectives so far against those that other trials had at the same epoch, whether they
finished, failed or were stopped. Several objectives are compared as in multi-objective ASHA (Schmucker et al., arXiv 2106.12639).
Nothing else enters, so a search that was killed judges as one that was not. Optuna's own pruners record that a rung was reached before
they decide, and lose the decision of a driver that is killed in between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from .fronts import order_by_fronts

Curves = Mapping[int, Mapping[int, Sequence[float]]]  # of each trial, its objectives after some epochs

_REDUCTION_FACTOR = 3  # about one trial in three goes on from each rung
_MEDIAN_RIVALS = 4  # a median of fewer says little


@dataclass(frozen=True)
class Stopper:
    """Trials are dealt to `brackets`, each a tuple of rungs, in proportion to `weights`, and compared within their bracket.

    A trial goes on where its loss is at most the `quantile` of its rivals' losses, or where there are fewer than `min_rivals`. With
    several objectives it goes on where this part of its rivals or less stands before it in the order of `order_by_fronts`.
    """

    brackets: tuple[tuple[int, ...], ...]
    weights: tuple[int, ...] = (1,)
    quantile: float = 1 / _REDUCTION_FACTOR
    min_rivals: int = 1

    def rungs(self, trial: int) -> tuple[int, ...]:
        """The epochs at which this trial is judged."""
        return self.brackets[self._bracket(trial)]

    def keeps(self, trial: int, epoch: int, curves: Curves) -> bool:
        """Whether the trial goes on after `epoch`, one of its rungs."""
        bracket = self._bracket(trial)
        rivals = [curve[epoch] for other, curve in curves.items() if other != trial and epoch in curve and self._bracket(other) == bracket]
        own = curves[trial][epoch]
        if len(rivals) < self.min_rivals:
            return True
        if len(own) == 1:
            return own[0] <= float(np.quantile(rivals, self.quantile))
        place = order_by_fronts(np.array([own, *rivals])).index(0)
        return place <= self.quantile * (len(rivals) - 1)

    def _bracket(self, trial: int) -> int:
        drawn = crc32(b"%d" % trial) % sum(self.weights)  # as if at random, and the same in every driver
        return int(np.searchsorted(np.cumsum(self.weights), drawn, side="right"))


def asha(budget: int, grace: int) -> Stopper:
    """Asynchronous successive halving (Li et al., arXiv 1810.05934) in the variant that stops: rungs at grace, 3 grace, 9 grace, ..."""
    return Stopper((_rungs(budget, grace),))


def median(budget: int, grace: int) -> Stopper:
    """The median rule of Google Vizier: judged after every epoch from `grace` on."""
    return Stopper((tuple(range(grace, budget)),), quantile=0.5, min_rivals=_MEDIAN_RIVALS)


def hyperband(budget: int, grace: int) -> Stopper:
    """Hyperband (Li et al., arXiv 1603.06560): as `asha`, with later first rungs for some trials and none for a few."""
    rungs = _rungs(budget, grace)
    brackets = tuple(rungs[first:] for first in range(len(rungs) + 1))
    # As many epochs for each bracket: of b rungs, a trial trains about (b + 1) / 3^b of the budget.
    weights = tuple(math.ceil(len(brackets) * _REDUCTION_FACTOR ** len(bracket) / (len(bracket) + 1)) for bracket in brackets)
    return Stopper(brackets, weights)


def never(budget: int, grace: int) -> Stopper:
    """Every trial trains its whole budget."""
    return Stopper(((),))


STOPPERS = {"asha": asha, "median": median, "hyperband": hyperband, "none": never}


def _rungs(budget: int, grace: int) -> tuple[int, ...]:
    """Below the budget: a trial that has trained it all is finished, and nothing is left to stop."""
    rungs, epoch = [], grace
    while epoch < budget:
        rungs.append(epoch)
        epoch *= _REDUCTION_FACTOR
    return tuple(rungs)
