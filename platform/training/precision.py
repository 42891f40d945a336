"""The precision of matrix products: which one an epoch has, and the context that sets it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ...physics import InputError
from ..config import TrainingConfig


def check_precision(settings: TrainingConfig, device: torch.device) -> None:
    """Raises InputError where `device` does not compute in the precision of `settings`."""
    if settings.precision == "tf32" and device.type != "cuda":
        raise InputError("training.precision is 'tf32', which needs a CUDA device; choose float32 or bf16")


def precision_at(settings: TrainingConfig, epoch: int) -> str:
    """`training.precision`, or float32 in the last epochs."""
    return "float32" if epoch >= settings.epochs - settings.float32_epochs else settings.precision


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[Callable[[], Any]]:
    """Set the precision of matrix products within; gives the context in which to evaluate the network (autocast for bf16)."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield (lambda: torch.autocast(device.type, torch.bfloat16)) if precision == "bf16" else nullcontext
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
