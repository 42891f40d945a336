"""A network in training: its steps, its state, and its loss on held-out rows."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...architectures import Operator, build_operator
from ...physics import InputError
from ..config import Config, TrainingConfig
from .batches import Batch, Part, Source
from .cuda_graph import Recorded
from .initial_model import start_from
from .objectives import Objective, total_losses
from .optimizers import Optimizer, WeightAverage
from .precision import check_precision, matmul_precision, precision_at
from .process_group import Worker
from .schedules import learning_rate_at, ramp
from .trained_for import task_of

_CHECK_EVERY = 100  # steps between looks at the losses: each look makes a GPU wait


class Learner:
    """A network, its optimizer and, where `training.ema_decay` is set, the average of its weights."""

    def __init__(self, config: Config, statistics: tuple[Tensor, Tensor], device: torch.device, worker: Worker) -> None:
        self._settings, self._device, self._worker = config.training, device, worker
        check_device(self._settings, device, worker.size)
        torch.manual_seed(self._settings.seed)
        self.model = build_operator(config.architecture, task_of(config.data)).to(device)
        self.model.set_normalisation(*statistics)
        if self._settings.initial_model is not None:
            start_from(self.model, self._settings.initial_model)
        self._optimizer = Optimizer(self.model, self._settings)
        self._average = WeightAverage(self.model, self._settings.ema_decay) if self._settings.ema_decay else None
        objective: nn.Module = Objective(self.model, self._settings)
        if worker.size > 1:
            objective = nn.parallel.DistributedDataParallel(objective)
        if self._settings.compile:
            objective = torch.compile(objective, mode="reduce-overhead" if device.type == "cuda" else None)  # pyright: ignore
        self._objective = objective
        self._auxiliary_weight = torch.ones((), device=device)
        self._recorded: tuple[str, Recorded] | None = None  # with the precision it is recorded in

    def run_epoch(self, epoch: int, source: Source, on_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One pass over an epoch of `source`; its figures. InputError, naming the step, where a loss is not finite."""
        self._seed(epoch)
        self.model.train()
        num_steps = -(-source.num_rows // self._settings.batch_size)
        figures, weights = list[Tensor](), list[tuple[float, int]]()
        with matmul_precision(precision_at(self._settings, epoch), self._device) as autocast:
            for step, part in enumerate(source.epoch(epoch)):
                try:
                    figures.append(self.step(part, epoch + step / num_steps, autocast))
                except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
                    # Optimizers that factorise what they remember of gradients fail before the next check, on all ranks alike.
                    raise _not_finite(epoch, step + 1, num_steps) from None
                weights.append((part.weight / self._worker.size, part.rows))
                if (step + 1) % _CHECK_EVERY == 0 or step + 1 == num_steps:
                    self._check_finite(figures, epoch, num_steps)
                on_step()
        objective, total, norm = torch.stack(figures).double().T
        weight, rows = torch.tensor(weights, dtype=torch.float64, device=self._device).T
        losses = self._worker.sum(torch.stack([weight * objective, weight * total]) * rows).sum(dim=1) / source.num_rows
        return {
            "train_loss": float(losses[1]),
            "objective": float(losses[0]),
            "gradient_norm": float(norm.mean()),
            "learning_rate": learning_rate_at(self._settings, epoch + (num_steps - 1) / num_steps),  # of the last step
            "steps": num_steps,
        }

    def step(self, part: Part, epoch: float, autocast: Callable[[], Any]) -> Tensor:
        """One step of the optimizer; the part's mean objective and total loss, and the gradient's norm, (3,) on the device."""
        if self._settings.kl_warmup_epochs:
            self._auxiliary_weight.fill_(ramp(epoch, self._settings.kl_warmup_epochs))
        self._optimizer.prepare(learning_rate_at(self._settings, epoch))
        figures = self._recorded_step(part, epoch, autocast) if self._settings.cuda_graph else self._step(part.batch, part.weight, autocast)
        self._optimizer.finish()
        if self._average:
            self._average.update()
        return figures

    def _step(self, batch: Batch, weight: float, autocast: Callable[[], Any]) -> Tensor:
        """What a step does on the device."""
        with autocast():
            objective_B, total_B, auxiliary = self._objective(batch)
        objective = objective_B.mean()
        (weight * (objective + self._auxiliary_weight * auxiliary)).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.gradient_clip)
        self._optimizer.update()
        return torch.stack([objective.detach(), total_B.detach().mean(), norm])

    def _recorded_step(self, part: Part, epoch: float, autocast: Callable[[], Any]) -> Tensor:
        precision = precision_at(self._settings, int(epoch))
        if self._recorded is None or self._recorded[0] != precision:
            self._recorded = precision, Recorded(lambda batch: self._step(batch, 1.0, autocast))
        return self._recorded[1](part.batch)

    def _check_finite(self, figures: list[Tensor], epoch: int, num_steps: int) -> None:
        """All ranks check together, so that none waits for a rank that has stopped."""
        recent = torch.stack(figures[-_CHECK_EVERY:]).isfinite().all(dim=1)
        finite = self._worker.sum((~recent).float()) == 0
        if not finite.all():
            step = max(0, len(figures) - _CHECK_EVERY) + int(finite.float().argmin()) + 1
            raise _not_finite(epoch, step, num_steps)

    def _seed(self, epoch: int) -> None:
        """Random numbers depend on (seed, epoch, rank) alone, so a resumed run draws the same as an uninterrupted one."""
        torch.manual_seed(int(np.random.SeedSequence([self._settings.seed, epoch, self._worker.rank]).generate_state(1)[0]))

    @contextmanager
    def judged(self) -> Iterator[Operator]:
        """The network that is evaluated and saved: with averaged weights, where an average is kept."""
        with self._optimizer.evaluating():
            yield self._average.model if self._average else self.model

    def state_dict(self) -> dict[str, Any]:
        average = {"model": self._average.model.state_dict(), "steps": self._average.steps} if self._average else None
        return {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average:
            self._average.model.load_state_dict(state["average"]["model"])
            self._average.steps = state["average"]["steps"]


def check_device(settings: TrainingConfig, device: torch.device, num_workers: int) -> None:
    """Raises InputError where this number of workers on such a device cannot train with these settings."""
    check_precision(settings, device)
    if settings.cuda_graph and (device.type != "cuda" or num_workers > 1):
        where = f"{num_workers} workers" if num_workers > 1 else f"device {device.type}"
        raise InputError(f"training.cuda_graph is true, which needs one worker on a CUDA device; this run has {where}")
    if settings.compile:
        check_compiler(device)


def check_compiler(device: torch.device) -> None:
    """Raises InputError where torch.compile would find no compiler for what it writes: C++ on a CPU, C for the launchers on a GPU."""
    if device.type == "cpu":
        variable, language, found = "CXX", "C++", _has_cpp_compiler()
    else:
        variable, language, found = "CC", "C", any(map(shutil.which, [os.environ.get("CC") or "cc", "clang", "gcc"]))
    if not found:
        raise InputError(
            f"training.compile is true, and torch.compile finds no {language} compiler ({variable} is {os.environ.get(variable)!r}); "
            f"install g++ or clang++, set {variable} to a compiler, or leave training.compile at false"
        )


def _has_cpp_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except (InvalidCxxCompiler, OSError):  # OSError: a file that cannot be run
        return False


def diverged(what: str) -> InputError:
    """The refusal to go on with weights that are beyond repair."""
    return InputError(f"{what}; the run keeps the last good checkpoint: start another with a lower training.learning_rate")


def _not_finite(epoch: int, step: int, num_steps: int) -> InputError:
    where = f"the loss or its gradient is not finite in epoch {epoch + 1}, step {step} of {num_steps}"
    if epoch == 0 and step == 1:
        return InputError(f"{where}, where no weight has changed yet: look at the values of architecture and at the dataset")
    return diverged(where)


@torch.no_grad()
def validate(model: Operator, rows: Batch, batch_size: int, worker: Worker) -> float:
    """Mean total loss over `rows`, in float32 whatever the precision of training."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=rows.potential.device)
    with matmul_precision("float32", rows.potential.device):
        for batch in torch.arange(len(rows), device=rows.potential.device).split(batch_size):
            mine = worker.part_of(batch)
            if len(mine):
                total += total_losses(model, rows.take(mine)).double().sum()
    return float(worker.sum(total)) / len(rows)
