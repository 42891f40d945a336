"""What may differ where a run goes on: keys that do not touch the weights, and more epochs or patience than before."""

from typing import Any

from ...physics import InputError
from ..config import Config, TrainingConfig
from ..storage import locate
from .precision import precision_at
from .schedules import learning_rate_at

BESIDE_THE_WEIGHTS = ("trackers", "keep_checkpoints")  # keys of training that only decide what is written beside the model


def check_continuation(before: Config, now: Config, may_extend: bool = True) -> bool:
    """Whether a run of `before` has more to do as one of `now`; InputError, naming the keys, where it cannot go on as that."""
    old, new = before.dump(), now.dump()
    changed = {
        f"{section}.{key}": (old[section].get(key), value)
        for section in ("data", "architecture", "training")
        for key, value in new[section].items()
        if old[section].get(key) != value and key not in BESIDE_THE_WEIGHTS and not _is_same_folder(key, old[section].get(key), value)
    }
    longer = {key for key in ("training.epochs", "training.patience") if may_extend and key in changed and _is_longer(*changed[key])}
    refused = [f"{key} was {was!r}, is {value!r}" for key, (was, value) in changed.items() if key not in longer]
    if refused:
        raise InputError(f"--resume needs the configuration the run began with: {'; '.join(refused)}; or start another run")
    return bool(longer)


def _is_same_folder(key: str, before: Any, now: Any) -> bool:
    return key == "initial_model" and None not in (before, now) and locate(before).absolute() == locate(now).absolute()


def _is_longer(before: int | None, now: int | None) -> bool:
    return before is not None and (now is None or now > before)


def other_schedule(before: TrainingConfig, now: TrainingConfig, epochs: int) -> str | None:
    """What sets the first `epochs` epochs, trained as `before`, apart from those of a run of `now`; None where nothing does."""
    if all(_conditions(before, epoch) == _conditions(now, epoch) for epoch in range(epochs)):
        return None
    return f"epochs up to {epochs} have the learning rates and precision of a run of {before.epochs} epochs, not of {now.epochs}"


def _conditions(settings: TrainingConfig, epoch: int) -> tuple[Any, ...]:
    rates = [learning_rate_at(settings, epoch + part) for part in (0.0, 0.5)]  # the rate changes within an epoch too
    return *rates, precision_at(settings, epoch)
