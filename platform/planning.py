"""What long work would cost here, from a micro-run of the real code."""

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..architectures import build_operator
from .config import Config
from .data_config import DataConfig
from .datasets import read_split
from .generation import read_manifest
from .shards import measure_shard
from .training import Batches, squared_error

_MICRO_STEPS = 3
_RAY_STARTUP_SECONDS = 8.0  # starting Ray and its workers; the part a micro-run cannot see


def plan_generate(config: DataConfig) -> dict[str, Any]:
    """Rows, disk, memory and time of `generate` on this machine's cores."""
    rows, cores = sum(config.counts.values()), os.cpu_count() or 1
    measured = measure_shard(config)
    shards = -(-rows // config.shard_rows)
    return {
        "rows": rows,
        "files": shards,
        "disk_bytes": round(rows * measured["bytes_per_row"]),
        "memory_bytes_per_task": round(_resident_bytes() + config.shard_rows * (config.sensors + 3 * config.times) * 16),
        "seconds": _RAY_STARTUP_SECONDS + rows * measured["seconds_per_row"] / min(cores, max(shards, 1)),
        "measured": measured,
    }


def plan_train(config: Config, dataset: Path) -> dict[str, Any]:
    """Steps, memory and time of one training run in one process, from a few real steps."""
    counts = read_manifest(dataset)["counts"]
    rows, settings = config.training.train_rows or counts["train"], config.training
    batch = Batches.from_split(read_split(dataset, "train", min(settings.batch_size, rows)), torch.device("cpu"))
    model = build_operator(config.override({"architecture.num_sensors": batch.potential.shape[1]}).architecture)
    optimizer = torch.optim.AdamW(model.parameters())
    seconds_forward, seconds_step = [], []
    for _ in range(_MICRO_STEPS + 1):  # the first is a warm-up
        started = time.perf_counter()
        losses, auxiliary = squared_error(model, batch)
        seconds_forward.append(time.perf_counter() - started)
        optimizer.zero_grad()
        (losses.mean() + auxiliary).backward()
        optimizer.step()
        seconds_step.append(time.perf_counter() - started)
    step, forward = min(seconds_step[1:]), min(seconds_forward[1:])
    steps = -(-rows // settings.batch_size)
    validation = -(-counts["val"] // settings.batch_size) * forward
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "rows": rows,
        "parameters": parameters,
        "steps": steps * settings.epochs,
        "seconds_per_step": step,
        "seconds": settings.epochs * (steps * step + validation),
        "disk_bytes": 4 * parameters * 4,  # weights, two moments, and the best model
        "memory_bytes": _resident_bytes() + 4 * (rows + counts["val"]) * sum(t[0].numel() for t in vars(batch).values()),
    }


def plan_many(config: Config, dataset: Path, runs: int, concurrent: int) -> dict[str, Any]:
    """A sweep or a study as `runs` runs of this configuration, `concurrent` at a time on this machine's cores."""
    one = plan_train(config, dataset)
    parallel = max(1, min(concurrent, os.cpu_count() or 1, runs))
    # One run here used every core; concurrent runs share them.
    return {
        "runs": runs,
        "seconds": _RAY_STARTUP_SECONDS + runs * one["seconds"],
        "disk_bytes": runs * one["disk_bytes"],
        "memory_bytes": parallel * one["memory_bytes"],
        "one_run": one,
    }


def _resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
