"""Learning rates and other weights that change during a run. Epochs may be fractional: 2.5 is half-way through the third."""

import math

from ..config import TrainingConfig

_HYPERBOLIC_STRETCH = 300 / 250  # U / N of the published schedule


def learning_rate_at(settings: TrainingConfig, epoch: float) -> float:
    """The rate at `epoch`, from 0 to `settings.epochs`: the schedule's, times a linear warm-up."""
    return _SCHEDULES[settings.schedule](settings, epoch) * ramp(epoch, settings.warmup_epochs)


def ramp(epoch: float, length: float) -> float:
    """From 0 to 1 over `length` epochs."""
    return min(1.0, epoch / length) if length else 1.0


def _constant(settings: TrainingConfig, epoch: float) -> float:
    return settings.learning_rate


def _cosine(settings: TrainingConfig, epoch: float) -> float:
    """Half a cosine (Loshchilov & Hutter, arXiv 1608.03983)."""
    first, last = settings.learning_rate, settings.final_learning_rate
    return last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * epoch / settings.epochs))


def _warmup_stable_decay(settings: TrainingConfig, epoch: float) -> float:
    """Constant, then straight down (Hu et al., arXiv 2404.06395; Hägele et al., arXiv 2405.18392)."""
    first, last = settings.learning_rate, settings.final_learning_rate
    return last + (first - last) * min(1.0, (settings.epochs - epoch) / (settings.decay_fraction * settings.epochs))


def _exp_hyperbolic(settings: TrainingConfig, epoch: float) -> float:
    """ExpHyperbolicLR of arXiv 2410.20951, with upper bound U = 1.2 N as published; it changes once an epoch."""
    first, last, total = settings.learning_rate, settings.final_learning_rate, settings.epochs
    bound = _HYPERBOLIC_STRETCH * total

    def height(x: float) -> float:
        return math.sqrt((total - x) / bound * (2.0 - (total + x) / bound))

    return first * (first / last) ** (height(math.floor(epoch)) - height(0))


_SCHEDULES = {
    "constant": _constant,
    "cosine": _cosine,
    "warmup-stable-decay": _warmup_stable_decay,
    "exp-hyperbolic": _exp_hyperbolic,
}
