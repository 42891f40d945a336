"""The training loop: plain PyTorch, one process or one of several DDP workers, with reporting injected.

Its record is the run folder (see `run_folder`), the same for every way of running it.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...architectures import Operator, build_operator, save_model
from ...architectures.layers.mamba import uses_scan
from ...architectures.selective_scan import choose_backend
from ...physics import InputError
from ..config.tree import Config, TrainingConfig
from ..data.datasets import list_files, read_rows
from ..data.manifest import read_manifest
from ..data.shards import rows_config
from ..machine import peak_memory_bytes
from ..provenance import code_version, hash_json, write_json
from .batches import Batch, Share, Source, describe, normalisation, open_source
from .checkpoints import CheckpointFolder
from .objectives import Objective, total_losses
from .optimizers import Optimizer, WeightAverage
from .process_group import Worker
from .run_folder import CHECKPOINTS_FOLDER, MODEL_FOLDER, RESULT_FILE, History
from .schedules import learning_rate_at, ramp
from .trackers import tracking
from .trained_for import task_of, trained_for

Report = Callable[[dict[str, float]], None]
_CHECK_EVERY = 100  # steps between looks at the losses: each look makes a GPU wait


def train(
    config: Config,
    dataset: Path,
    run: Path,
    report: Report = lambda _: None,
    device: torch.device | None = None,
    on_step: Callable[[], None] = lambda: None,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Train until `training.epochs` or `training.patience` ends it, from the run folder's checkpoint if there is one; returns the result.

    In a process group every rank calls this; ranks share one global batch order, so the number of workers changes nothing
    but rounding. On every rank `report` is called once an epoch, `on_step` after each step.

    With a `deadline`, in seconds as `time.time` counts them, the call trains at least one epoch and stops after the first
    that leaves less time than an epoch takes. Its result then says `finished` False and is not written; the next call goes on.

    Raises
    ------
    InputError
        Where the loss is not finite, the dataset or every checkpoint is damaged, the run folder cannot be written, or a
        setting cannot run here.
    """
    worker = Worker.current()
    device = device or default_device()
    settings = config.training
    source = open_source(config, dataset, device, worker)
    validation = Batch.from_rows(read_rows(list_files(dataset, "val")), device)
    learner = Learner(config, normalisation(dataset, settings), device, worker)
    record = _Record(config, dataset, run, worker)
    record.resume(learner, device)
    stage = _Stage(deadline, worker, device)
    about = {"device": device.type, "scan_backend": choose_backend(device) if uses_scan(learner.model) else None, "data": describe(source)}

    with tracking(config, run, len(record.history)) if worker.rank == 0 else nullcontext(lambda *_: None) as track:
        for epoch in range(len(record.history), settings.epochs):
            if record.out_of_patience or stage.is_over():
                break
            started = time.perf_counter()
            figures = learner.run_epoch(epoch, source, on_step)
            with learner.judged() as judged:
                figures["validation_loss"] = validate(judged, validation, settings.batch_size, worker)
                if not math.isfinite(figures["validation_loss"]):  # the last step can be what broke the weights
                    raise _diverged(f"the validation loss is not finite after epoch {epoch + 1}")
                seconds = time.perf_counter() - started
                figures |= {"seconds": seconds, "rows_per_second": source.num_rows / seconds, "memory_bytes": peak_memory_bytes(device)}
                record.add({"epoch": epoch + 1, **figures, "precision": precision_at(settings, epoch), **about}, judged)
            record.save(learner)
            track(epoch + 1, figures)
            report({"epoch": epoch + 1.0} | {key: float(value) for key, value in figures.items()})
    finished = record.out_of_patience or len(record.history) >= settings.epochs
    result = {
        "run": str(run),
        "model": str(run / MODEL_FOLDER),
        "architecture": config.architecture.name,
        "num_parameters": sum(p.numel() for p in learner.model.parameters()),
        "train_rows": source.num_rows,
        "epochs": len(record.history),
        "finished": finished,
        "stopped_early": finished and len(record.history) < settings.epochs,
        "best_epoch": record.best["epoch"],
        "validation_loss": record.best["validation_loss"],
        "seconds": sum(line["seconds"] for line in record.history),
        **about,
        "warnings": [line["warning"] for line in record.history if "warning" in line],
    }
    if finished:
        worker.first_writes(lambda: write_json(run / RESULT_FILE, result))
    return result


def default_device() -> torch.device:
    """Where a process trains that was told no device."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_precision(settings: TrainingConfig, device: torch.device) -> None:
    """Raises InputError where `device` does not compute in the precision that is asked for."""
    if settings.precision == "tf32" and device.type != "cuda":
        raise InputError("training.precision is 'tf32', which needs a CUDA device; choose float32 or bf16")


def steps_of(config: Config) -> int:
    """Steps of a whole run of a resolved configuration."""
    return config.training.epochs * -(-(config.training.train_rows or config.data.train) // config.training.batch_size)


class _Stage:
    """What one call does of a run where it has a deadline: no epoch begins that would end too late, were it the slowest yet."""

    def __init__(self, deadline: float | None, worker: Worker, device: torch.device) -> None:
        self._deadline, self._worker, self._device = deadline, worker, device
        self._begun: float | None = None  # when the epoch under way began
        self._slowest = 0.0  # epoch, in seconds, with its checkpoint and, for the first, what is compiled in it

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


class Learner:
    """A network, its optimizer and what else changes as it learns."""

    def __init__(self, config: Config, statistics: tuple[float, float], device: torch.device, worker: Worker) -> None:
        self._settings, self._device, self._worker = config.training, device, worker
        check_precision(self._settings, device)
        torch.manual_seed(self._settings.seed)
        self.model = build_operator(config.architecture, task_of(config.data)).to(device)
        self.model.set_normalisation(*statistics)
        self._optimizer = Optimizer(self.model, self._settings)
        self._average = WeightAverage(self.model, self._settings.ema_decay) if self._settings.ema_decay else None
        objective: nn.Module = Objective(self.model, self._settings)
        if worker.size > 1:
            objective = nn.parallel.DistributedDataParallel(objective)
        if self._settings.compile:
            objective = torch.compile(objective, mode="reduce-overhead" if device.type == "cuda" else None)  # pyright: ignore
        self._objective = objective

    def run_epoch(self, epoch: int, source: Source, on_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One pass over an epoch of `source`; its figures. InputError, naming the step, where a loss is not finite."""
        self._seed(epoch)
        self.model.train()
        num_steps = -(-source.num_rows // self._settings.batch_size)
        figures, shares = list[tuple[Tensor, Tensor, Tensor]](), list[tuple[float, int]]()
        with matmul_precision(precision_at(self._settings, epoch), self._device) as autocast:
            for step, share in enumerate(source.epoch(epoch)):
                figures.append(self.step(share, epoch + step / num_steps, autocast))
                shares.append((share.weight / self._worker.size, share.rows))
                if (step + 1) % _CHECK_EVERY == 0 or step + 1 == num_steps:
                    self._check_finite(figures, epoch, num_steps)
                on_step()
        objective, total, norm = (torch.stack(column).double() for column in zip(*figures, strict=True))
        weight, rows = torch.tensor(shares, dtype=torch.float64, device=self._device).T
        losses = self._worker.sum(torch.stack([weight * objective, weight * total]) * rows).sum(dim=1) / source.num_rows
        return {
            "train_loss": float(losses[1]),
            "objective": float(losses[0]),
            "gradient_norm": float(norm.mean()),
            "learning_rate": learning_rate_at(self._settings, epoch + (num_steps - 1) / num_steps),  # of the last step
            "steps": num_steps,
        }

    def step(self, share: Share, epoch: float, autocast: Callable[[], Any]) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the optimizer; the share's mean objective and total loss, and the gradient's norm, on the device."""
        with autocast():
            objective_B, total_B, auxiliary = self._objective(share.batch)
        objective = objective_B.mean()
        (share.weight * (objective + ramp(epoch, self._settings.kl_warmup_epochs) * auxiliary)).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.gradient_clip)
        self._optimizer.step(learning_rate_at(self._settings, epoch))
        if self._average:
            self._average.update()
        return objective.detach(), total_B.detach().mean(), norm

    def _check_finite(self, figures: list[tuple[Tensor, Tensor, Tensor]], epoch: int, num_steps: int) -> None:
        """Every rank learns of it at once, so that none waits for another in vain."""
        recent = torch.stack([torch.stack(step) for step in figures[-_CHECK_EVERY:]]).isfinite().all(dim=1)
        finite = self._worker.sum((~recent).float()) == 0
        if not finite.all():
            step = max(0, len(figures) - _CHECK_EVERY) + int(finite.float().argmin()) + 1
            raise _diverged(f"the loss or its gradient is not finite in epoch {epoch + 1}, step {step} of {num_steps}")

    def _seed(self, epoch: int) -> None:
        """What networks draw depends on (seed, epoch, rank) alone: a resumed run draws what an uninterrupted one does."""
        torch.manual_seed(int(np.random.SeedSequence([self._settings.seed, epoch, self._worker.rank]).generate_state(1)[0]))

    @contextmanager
    def judged(self) -> Iterator[Operator]:
        """The network whose loss counts and that is saved: an average of weights where there is one."""
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


def _diverged(what: str) -> InputError:
    return InputError(f"{what}; the run keeps the last good checkpoint: start another with a lower training.learning_rate")


@torch.no_grad()
def validate(model: Operator, rows: Batch, batch_size: int, worker: Worker) -> float:
    """Mean total loss over `rows`, in float32 whatever the precision of training."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=rows.potential.device)
    with matmul_precision("float32", rows.potential.device):
        for batch in torch.arange(len(rows), device=rows.potential.device).split(batch_size):
            mine = worker.share(batch)
            if len(mine):
                total += total_losses(model, rows.take(mine)).double().sum()
    return float(worker.sum(total)) / len(rows)


def precision_at(settings: TrainingConfig, epoch: int) -> str:
    """That of the bulk, or float32 in the last epochs."""
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


class _Record:
    """What a run folder learns of an epoch, in the order that survives a crash: model, line of the history, checkpoint."""

    def __init__(self, config: Config, dataset: Path, run: Path, worker: Worker) -> None:
        self._settings, self._run, self._worker = config.training, run, worker
        self._trained_for, self._provenance = trained_for(config.data), _provenance(config, dataset)
        self._rows_an_epoch = config.training.train_rows or config.data.train
        self._lines = History(run)
        self._checkpoints = CheckpointFolder(run / CHECKPOINTS_FOLDER, config.training.keep_checkpoints)
        self._warning: str | None = None
        self.history: list[dict[str, Any]] = []

    def resume(self, learner: "Learner", device: torch.device) -> None:
        """Bring learner and history to the latest state that can be read, if there is any."""
        state, self._warning = self._checkpoints.latest(device)
        done = state["epoch"] if state else 0
        self._worker.first_writes(lambda: self._lines.cut(done))
        self.history = self._lines.read()[:done]
        if state:
            learner.load_state_dict(state["learner"])

    @property
    def best(self) -> dict[str, Any]:
        return min(self.history, key=lambda line: line["validation_loss"])

    @property
    def out_of_patience(self) -> bool:
        patience = self._settings.patience
        return patience is not None and bool(self.history) and len(self.history) - self.best["epoch"] >= patience

    def add(self, line: dict[str, Any], judged: Operator) -> None:
        """An epoch's line; its network is saved where it is the best so far."""
        if self._warning:
            line, self._warning = line | {"warning": self._warning}, None
        self.history.append(line)
        if self.best is line:
            self._worker.first_writes(
                lambda: save_model(judged, self._run / MODEL_FOLDER, self._trained_for, self._provenance | self._cost() | {"metrics": line})
            )
        self._worker.first_writes(lambda: self._lines.append(line))

    def _cost(self) -> dict[str, Any]:
        """What the model took so far: wall time, and rows of training data made for it."""
        return {
            "seconds": sum(line["seconds"] for line in self.history),
            "rows_drawn": self._rows_an_epoch * (len(self.history) if self._settings.endless else 1),
        }

    def save(self, learner: "Learner") -> None:
        """The state after the latest epoch."""
        epoch = len(self.history)
        state = {"epoch": epoch, "learner": learner.state_dict()}
        self._worker.first_writes(lambda: self._checkpoints.save(epoch, self.best["epoch"], state))


def _provenance(config: Config, dataset: Path) -> dict[str, Any]:
    manifest = read_manifest(dataset)
    return {
        "dataset_hash": manifest["dataset_hash"],
        "rows_config_hash": hash_json(rows_config(config.data)),
        "config_hash": hash_json(config.dump()),
        "config": config.dump(),
        "code_version": code_version(),
        "torch_version": torch.__version__,
    }
