"""The training loop: plain PyTorch, one process or one of several DDP workers, with reporting injected.

The run folder is the record of a run, the same for every way of running it:

    config.yaml      the resolved configuration
    history.jsonl    one line an epoch
    checkpoint.safetensors    full state after the latest epoch, replaced atomically
    model/           the best model so far by validation loss
    result.json      written last: the run is finished
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..architectures import Operator, build_operator, save_model
from ..architectures.mamba import uses_scan
from ..architectures.selective_scan import choose_backend
from ..physics import InputError
from .checkpoints import load_checkpoint, save_checkpoint
from .config import Config, load_config
from .datasets import Split, read_split
from .generation import read_manifest
from .provenance import code_version, hash_json, write_atomically, write_json
from .schedules import learning_rate_at
from .shards import rows_config

Report = Callable[[dict[str, float]], None]
CHECKPOINT_FILE, HISTORY_FILE, RESULT_FILE, CONFIG_FILE = "checkpoint.safetensors", "history.jsonl", "result.json", "config.yaml"


@dataclass(frozen=True)
class Batches:
    """A split as tensors on one device. Shapes: potential (N, S), q, p (N, T), initial (N, 2).

    `times` is (N, T), or (1, T) where all rows share them: networks then compute what depends on them alone once.
    """

    potential: Tensor
    times: Tensor
    q: Tensor
    p: Tensor
    initial: Tensor

    @classmethod
    def from_split(cls, split: Split, device: torch.device) -> "Batches":
        arrays = (split.potential, split.distinct_times, split.q, split.p, split.initial)
        return cls(*(torch.from_numpy(np.array(a, dtype=np.float32)).to(device) for a in arrays))

    def __len__(self) -> int:
        return len(self.potential)

    def take(self, rows: Tensor) -> "Batches":
        times = self.times if len(self.times) == 1 else self.times[rows]
        return Batches(self.potential[rows], times, self.q[rows], self.p[rows], self.initial[rows])


def prepare_run(run: Path, dataset: Path, config: Config, resume: bool) -> Config:
    """Check the inputs and claim the run folder, before any worker starts; returns the resolved configuration.

    Raises
    ------
    InputError
        For an unusable dataset, a run folder already in use, or a resumed run whose configuration or data changed.
    """
    manifest = read_manifest(dataset)
    for split in ("train", "val"):
        if manifest["counts"][split] == 0:
            raise InputError(f"split {split!r} of dataset {str(dataset)!r} has no rows; training needs both train and val")
    rows = config.training.train_rows
    if rows is not None and rows > manifest["counts"]["train"]:
        raise InputError(f"training.train_rows is {rows}; dataset {str(dataset)!r} has {manifest['counts']['train']} training rows")
    config = config.override(
        {f"data.{key}": value for key, value in manifest["config"].items()} | {"architecture.num_sensors": manifest["config"]["sensors"]}
    )
    build_operator(config.architecture)  # refuses sizes that do not fit together
    recorded = run / CONFIG_FILE
    if recorded.exists():
        if not resume:
            raise InputError(f"--out {str(run)!r} already holds a run; add --resume to continue it or choose another folder")
        before, now = load_config(recorded).dump(), config.dump()
        changed = [
            f"{s}.{k} was {before[s][k]!r}, is {v!r}"
            for s in ("data", "architecture", "training")
            for k, v in now[s].items()
            if before[s].get(k) != v
        ]
        if changed:
            raise InputError(f"--resume needs the configuration the run began with: {'; '.join(changed)}")
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"--out {str(run)!r} exists and holds no run; choose another folder")
    try:
        run.mkdir(parents=True, exist_ok=True)
        config.save(recorded)
    except OSError as error:
        raise InputError(f"--out {str(run)!r} cannot be written: {error.strerror}") from None
    return config


def train(config: Config, dataset: Path, run: Path, report: Report = lambda _: None, device: torch.device | None = None) -> dict[str, Any]:
    """Train to `training.epochs`, continuing from the run folder's checkpoint if there is one; returns the result.

    In a process group every rank calls this; ranks share one global batch order, so the number of
    workers changes nothing but rounding. `report` is called once an epoch on every rank.
    """
    worker = _Worker.current()
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = config.training
    train_split = read_split(dataset, "train", settings.train_rows)
    training, validation = Batches.from_split(train_split, device), Batches.from_split(read_split(dataset, "val"), device)

    torch.manual_seed(settings.seed)
    model = build_operator(config.architecture).to(device)
    model.set_normalisation(float(training.potential.mean()), float(training.potential.std()))
    replica = nn.parallel.DistributedDataParallel(model) if worker.size > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = _restore(run, model, optimizer, device)
    history: list[dict[str, Any]] = state["history"]
    hardware = {"device": device.type, "scan_backend": choose_backend(device) if uses_scan(model) else None}

    for epoch in range(state["epoch"], settings.epochs):
        started = time.perf_counter()
        rate = learning_rate_at(settings, epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        train_loss = _run_epoch(replica, optimizer, training, settings, epoch, worker)
        validation_loss = _validate(model, validation, settings.batch_size, worker)
        record = {
            "epoch": epoch + 1,
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "learning_rate": rate,
            "seconds": time.perf_counter() - started,
            "rows_per_second": len(training) / (time.perf_counter() - started),
            **hardware,
        }
        if not math.isfinite(train_loss) or not math.isfinite(validation_loss):
            raise InputError(
                f"the loss is not finite in epoch {epoch + 1}; {str(run)!r} keeps the last good checkpoint: lower training.learning_rate"
            )
        history.append(record)
        if validation_loss < state["best"]:
            state["best"] = validation_loss
            if worker.rank == 0:
                save_model(model, run / "model", _provenance(config, dataset, record))
        if worker.rank == 0:
            save_checkpoint(
                run / CHECKPOINT_FILE,
                {
                    "epoch": epoch + 1,
                    "best": state["best"],
                    "history": history,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
            )
            write_atomically(run / HISTORY_FILE, "".join(json.dumps(line) + "\n" for line in history).encode())
        report({key: float(value) for key, value in record.items() if key not in hardware})

    best = min(history, key=lambda line: line["validation_loss"])
    result = {
        "run": str(run),
        "model": str(run / "model"),
        "architecture": config.architecture.name,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "train_rows": len(training),
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "validation_loss": best["validation_loss"],
        "seconds": sum(line["seconds"] for line in history),
        **hardware,
    }
    if worker.rank == 0:
        write_json(run / RESULT_FILE, result)
    return result


@dataclass(frozen=True)
class _Worker:
    rank: int
    size: int

    @classmethod
    def current(cls) -> "_Worker":
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)

    def sum(self, value: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(value)
        return value


def batch_rows(num_rows: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Global batches of an epoch: a permutation seeded by (seed, epoch) alone, cut in order."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_rows)
    yield from torch.from_numpy(order).split(batch_size)


def squared_error(model: nn.Module, batch: Batches) -> tuple[Tensor, Tensor]:
    """Total loss of each trajectory (B,), half the sum of mean squared errors of q and p; and the auxiliary loss."""
    output = model(batch.potential, batch.times, batch.initial)
    losses = 0.5 * ((output.q - batch.q).square().mean(dim=1) + (output.p - batch.p).square().mean(dim=1))
    return losses, output.auxiliary_loss


def _run_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: Batches, settings: Any, epoch: int, worker: _Worker) -> float:
    model.train()
    total = torch.zeros((), device=data.potential.device)
    for rows in batch_rows(len(data), settings.batch_size, settings.seed, epoch):
        mine = rows[worker.rank :: worker.size]
        # Every rank must step equally often: one without rows takes a row at weight zero.
        weight = 1.0 if len(mine) else 0.0
        losses, auxiliary = squared_error(model, data.take(mine if len(mine) else rows[:1]))
        # DDP averages over ranks; this scale makes that average the mean over the global batch.
        share = worker.size * weight * losses.numel() / len(rows)
        loss = share * (losses.mean() + auxiliary)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        total += weight * losses.detach().sum()
    return float(worker.sum(total)) / len(data)


@torch.no_grad()
def _validate(model: Operator, data: Batches, batch_size: int, worker: _Worker) -> float:
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=data.potential.device)
    for rows in torch.arange(len(data)).split(batch_size):
        mine = rows[worker.rank :: worker.size]
        if len(mine):
            total += squared_error(model, data.take(mine))[0].double().sum()
    return float(worker.sum(total)) / len(data)


def _restore(run: Path, model: Operator, optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, Any]:
    path = run / CHECKPOINT_FILE
    if not path.exists():
        return {"epoch": 0, "best": math.inf, "history": []}
    state = load_checkpoint(path, device)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state


def _provenance(config: Config, dataset: Path, record: dict[str, Any]) -> dict[str, Any]:
    manifest = read_manifest(dataset)
    return {
        "preset": config.data.preset,
        "dataset_hash": manifest["dataset_hash"],
        "rows_config_hash": hash_json(rows_config(config.data)),
        "config_hash": hash_json(config.dump()),
        "config": config.dump(),
        "code_version": code_version(),
        "torch_version": torch.__version__,
        "metrics": record,
    }
