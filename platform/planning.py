"""The cost of long work on this machine, measured by a micro-run of the real code."""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..architectures import save_model
from .config import Config, TrainingConfig
from .config.data import DataConfig
from .data.datasets import read_rows
from .data.shards import measure_shard, row_values
from .machine import peak_memory_bytes
from .storage import Location
from .training.batches import Batch, Part, Source, normalisation, open_source, validation_files
from .training.checkpoints import save_checkpoint
from .training.learner import Learner, validate
from .training.precision import matmul_precision, precision_at
from .training.process_group import Worker
from .training.run_folder import prepare_run
from .training.runs import steps_of
from .training.trained_for import trained_for

_MICRO_STEPS, _MICRO_SECONDS = 5, 3.0  # both at least, where the split is as large
_MICRO_BATCHES = 3
_SLOW_SECONDS, _SLOW_FRACTION = 1.5, 8  # a step slower than this is worked out from one of a fraction of its rows
# The parts that a micro-run cannot see: Python and PyTorch, then Ray and its workers.
STARTUP_SECONDS, RAY_STARTUP_SECONDS = 4.0, 8.0


def plan_generate(config: DataConfig) -> dict[str, Any]:
    """Rows, disk, memory and time of `generate` on this machine's cores."""
    rows, cores = sum(config.counts.values()), os.cpu_count() or 1
    measured = measure_shard(config)
    shards = -(-rows // config.shard_rows)
    return {
        "rows": rows,
        "files": shards,
        "disk_bytes": round(rows * measured["bytes_per_row"]),
        "memory_bytes_per_task": round(peak_memory_bytes(torch.device("cpu")) + config.shard_rows * row_values(config) * 16),
        "seconds": RAY_STARTUP_SECONDS + rows * measured["seconds_per_row"] / min(cores, max(shards, 1)),
        "measured": measured,
    }


def plan_train(config: Config, dataset: Location, workers: int = 0) -> dict[str, Any]:
    """Steps, memory, disk and time of one training run on this machine's cores, from its first steps, done for real and dropped.

    `workers` 0 is a run in one process, without Ray. Memory is of one process.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        config = prepare_run(Path(scratch) / "run", dataset, config, resume=False)
        settings, started = config.training, time.perf_counter()
        source = open_source(config, dataset, device, Worker(0, 1))
        validation = Batch.from_rows(read_rows(validation_files(dataset, settings)), device)
        learner = Learner(config, normalisation(dataset, settings), device, Worker(0, 1))
        seconds_step, seconds_setup = _time_steps(learner, source, settings, device, started)
        wanted = settings.batch_size // _SLOW_FRACTION if seconds_step > _SLOW_SECONDS else _MICRO_BATCHES * settings.batch_size
        micro = validation.take(torch.arange(min(len(validation), max(1, wanted)), device=device))
        checkpoint = Path(scratch) / "checkpoint.safetensors"
        with learner.judged() as judged:
            seconds_row = _seconds(lambda: validate(judged, micro, settings.batch_size, Worker(0, 1))) / len(micro)
            model, task = Path(scratch) / "model", trained_for(config.data)
            seconds_save = _seconds(lambda: (save_checkpoint(checkpoint, learner.state_dict()), save_model(judged, model, task, {})))
        bytes_checkpoint = checkpoint.stat().st_size
    steps = steps_of(config)
    seconds_epoch = steps / settings.epochs * seconds_step + len(validation) * seconds_row + seconds_save
    parameters = sum(p.numel() for p in learner.model.parameters())
    return {
        "rows": source.num_rows,
        "parameters": parameters,
        "steps": steps,
        "seconds_per_step": seconds_step,
        "seconds_per_epoch": seconds_epoch,
        "seconds_per_row": seconds_row,  # of validation
        "seconds_per_record": seconds_save,  # of an epoch
        "seconds_setup": seconds_setup,
        "seconds": STARTUP_SECONDS + RAY_STARTUP_SECONDS * bool(workers) + seconds_setup + settings.epochs * seconds_epoch,
        "disk_bytes": (settings.keep_checkpoints + 1) * bytes_checkpoint + 4 * parameters,
        "memory_bytes": peak_memory_bytes(device),
    }


def _time_steps(learner: Learner, source: Source, settings: TrainingConfig, device: torch.device, started: float) -> tuple[float, float]:
    """Seconds of a usual step, and from `started` to the end of the first, which compiles and allocates."""
    seconds: list[float] = []
    with matmul_precision(precision_at(settings, 0), device) as autocast:
        parts = source.epoch(0)
        first = next(parts)
        some = Part(first.batch.take(torch.arange(max(1, len(first.batch) // _SLOW_FRACTION), device=device)), 1.0, first.rows)
        learner.step(some, 0.0, autocast)[0].item()  # waits for a GPU
        setup = time.perf_counter() - started
        few = _seconds_once(lambda: learner.step(some, 0.0, autocast)[0].item()) * len(first.batch) / len(some.batch)
        if few > _SLOW_SECONDS:
            return few, setup + few
        started = before = time.perf_counter()
        for part in itertools.chain([first], parts):
            learner.step(part, 0.0, autocast)[0].item()
            now = time.perf_counter()
            seconds.append(now - before)
            before = now
            if len(seconds) > 1 + _MICRO_STEPS and now - started - seconds[0] > _MICRO_SECONDS:
                break
    return statistics.median(seconds[1:] or seconds), setup + seconds[0]


def _seconds(work: Callable[[], Any]) -> float:
    work()
    return _seconds_once(work)


def _seconds_once(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
