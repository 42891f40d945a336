"""Learning rates by epoch."""

import math

from .config import TrainingConfig

_HYPERBOLIC_STRETCH = 300 / 250  # U / N of the published schedule


def learning_rate_at(settings: TrainingConfig, epoch: int) -> float:
    """The rate of epoch 0, 1, ..., epochs - 1.

    `exp-hyperbolic` is ExpHyperbolicLR of arXiv 2410.20951, with upper bound U = 1.2 N as published.
    """
    first, last, total = settings.learning_rate, settings.final_learning_rate, settings.epochs
    if settings.schedule == "constant":
        return first
    if settings.schedule == "cosine":
        progress = epoch / max(1, total - 1)
        return last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * progress))
    bound = _HYPERBOLIC_STRETCH * total

    def height(x: float) -> float:
        return math.sqrt((total - x) / bound * (2.0 - (total + x) / bound))

    return first * (first / last) ** (height(epoch) - height(0))
