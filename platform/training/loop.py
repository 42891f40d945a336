"""The training loop: plain PyTorch, one process or one of several DDP workers, with reporting injected.

Its record is the run folder (see `run_folder`), the same for every way of running it.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from ...architectures.layers.mamba import uses_scan
from ...architectures.selective_scan import choose_backend
from ..config import Config
from ..data.datasets import read_rows
from ..machine import default_device, peak_memory_bytes
from ..storage import Location
from .batches import Batch, normalisation, open_source, validation_files
from .learner import Learner, diverged, validate
from .precision import precision_at
from .process_group import Worker
from .record import Record
from .trackers import tracking

Report = Callable[[dict[str, float]], None]


def train(
    config: Config,
    dataset: Location,
    run: Location,
    report: Report = lambda _: None,
    device: torch.device | None = None,
    on_step: Callable[[], None] = lambda: None,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Train until `training.epochs` or `training.patience` ends it, from the run folder's checkpoint if there is one; returns the result.

    In a process group every rank calls this. All ranks use the same global batches, so the number of workers changes only
    rounding. On every rank `report` is called once per epoch, `on_step` after each step.

    With a `deadline`, in seconds as `time.time` counts them, the call trains at least one epoch and stops after the first
    that leaves less time than an epoch takes. Its result then has `finished` False and is not written; the next call goes on.

    Raises
    ------
    InputError
        Where the loss is not finite, the dataset or every checkpoint is damaged, the run folder cannot be written, or a
        setting cannot run here.
    """
    settings, worker = config.training, Worker.current()
    device = device or default_device()
    source = open_source(config, dataset, device, worker)
    validation = Batch.from_rows(read_rows(validation_files(dataset, settings)), device)
    learner = Learner(config, normalisation(dataset, settings), device, worker)
    record = Record(config, dataset, run, worker)
    record.resume(learner, device)
    clock = _Clock(deadline, worker, device)
    about = {"device": device.type, "scan_backend": choose_backend(device) if uses_scan(learner.model) else None, "data": source.kind}

    with tracking(config, run, len(record.history)) if worker.rank == 0 else nullcontext(lambda *_: None) as track:
        while not (record.is_finished or clock.is_over()):
            epoch, started = len(record.history), time.perf_counter()
            figures = learner.run_epoch(epoch, source, on_step)
            with learner.judged() as judged:
                figures["validation_loss"] = validate(judged, validation, settings.batch_size, worker)
                if not math.isfinite(figures["validation_loss"]):  # the last step can be what broke the weights
                    raise diverged(f"the validation loss is not finite after epoch {epoch + 1}")
                seconds = time.perf_counter() - started
                figures |= {"seconds": seconds, "rows_per_second": source.num_rows / seconds, "memory_bytes": peak_memory_bytes(device)}
                record.add({"epoch": epoch + 1, **figures, "precision": precision_at(settings, epoch), **about}, judged)
            record.save(learner)
            track(epoch + 1, figures)
            report({"epoch": epoch + 1.0} | {key: float(value) for key, value in figures.items()})
    return record.conclude(learner, about)


class _Clock:
    """Ends a call before its deadline: no epoch begins that would end too late if it were as slow as the slowest so far."""

    def __init__(self, deadline: float | None, worker: Worker, device: torch.device) -> None:
        self._deadline, self._worker, self._device = deadline, worker, device
        self._begun: float | None = None  # when the current epoch began
        self._slowest = 0.0  # seconds of the slowest epoch, with its checkpoint and, for the first, compilation

    def is_over(self) -> bool:
        """To be asked before each epoch, by every worker; the first worker's clock decides for all. Never before the first epoch."""
        if self._deadline is None:
            return False
        now, before = time.time(), self._begun
        self._begun = now
        if before is None:
            return False
        self._slowest = max(self._slowest, now - before)
        over = self._worker.rank == 0 and self._deadline - now < self._slowest
        return bool(self._worker.sum(torch.tensor(float(over), device=self._device)))
