"""Steps per second of the training loop's own step: every network, batch and precision, and with endless rows feeding it.

`busy` is the time of a step's kernels over the time of the step: what is missing to 1 the device waits for the host.
`first_loss` is that of one batch and fresh weights: the same in every precision and mode but for rounding, except where a network
draws random numbers, as VaRONet does in training.
"""

import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from neural_hamilton.architectures.selective_scan.threads import num_threads
from neural_hamilton.platform.config import Config
from neural_hamilton.platform.training.batches import Endless, Part
from neural_hamilton.platform.training.learner import Learner
from neural_hamilton.platform.training.precision import matmul_precision
from neural_hamilton.platform.training.process_group import Worker

from . import clock
from .bench import Bench, Cell, Skipped
from .networks import DIRECT, NETWORKS, network_config, repeat

BATCHES, PRECISIONS = (1024, 100, 8192), ("float32", "tf32", "bf16")
GRAPH = "one graph"  # the whole step, as `training.cuda_graph` has it
GRAPH_BATCHES = (128, 256, 1024)
MODES = ("CUDA graphs", "compiled")  # torch.compile with them, as `training.compile` has it on a GPU, and without
STREAMED = (DIRECT, "deeponet")
_WARM_UP_STEPS = 12  # among which the graph is recorded, and the optimizer has done once all that it does
_SECONDS, _STREAM_SECONDS, _COMPILE_SECONDS, _BATCHES_AN_EPOCH = 0.7, 4.0, 60.0, 50
_ALONE = Worker(0, 1)


def cells(bench: Bench) -> Iterator[Cell]:
    """The compiler takes up to a minute for each network, so what only it needs comes last."""
    for batch in bench.size(GRAPH_BATCHES, (8,)):
        yield _steps(bench, DIRECT, batch, "float32", GRAPH)
    yield from _eager(bench, bench.size(BATCHES[:2], (8,)))
    for name in STREAMED:
        yield Cell({"stream": "endless", "network": name}, _stream(bench, name))
    for mode in bench.size(MODES, ("compiled",)):
        yield _compiled(bench, DIRECT, mode)
    yield from _eager(bench, bench.size(BATCHES[2:], ()))
    for name in bench.size(NETWORKS[1:], ()):
        for mode in MODES:
            yield _compiled(bench, name, mode)


def _eager(bench: Bench, batches: tuple[int, ...]) -> Iterator[Cell]:
    for name in NETWORKS:
        for batch in batches:
            for precision in bench.size(PRECISIONS, ("float32", "bf16") if name == "deeponet" else ("float32",)):
                yield _steps(bench, name, batch, precision, "eager")


def _compiled(bench: Bench, name: str, mode: str) -> Cell:
    cell = _steps(bench, name, bench.size(BATCHES[0], 8), bench.size("tf32", "float32"), mode)
    return cell._replace(least_seconds=bench.size(_COMPILE_SECONDS, 0.0))


def _steps(bench: Bench, name: str, batch: int, precision: str, mode: str) -> Cell:
    def measure() -> dict[str, Any]:
        bench.check_precision(precision)
        if mode == GRAPH and bench.device.type != "cuda":
            raise Skipped("a CPU records no CUDA graph")
        config = network_config(name, bench.tiny, {"training.batch_size": batch, "training.precision": precision})
        learner = _learner(config, bench, mode)
        share = Part(repeat(config.data, batch, bench.device), 1.0, batch)
        with matmul_precision(precision, bench.device) as autocast:
            first = float(learner.step(share, 0.0, autocast)[1])
            if mode == GRAPH:
                for _ in range(_WARM_UP_STEPS):
                    learner.step(share, 0.0, autocast)
            seconds = clock.sustained_seconds(lambda: learner.step(share, 0.0, autocast), bench.device, bench.size(_SECONDS, 0.01))
            kernels = _kernels(lambda: learner.step(share, 0.0, autocast)) if bench.device.type == "cuda" else {}
        figures = {"steps_per_second": 1.0 / seconds, "rows_per_second": batch / seconds, "first_loss": first}
        if "kernel_seconds" in kernels:
            figures["busy"] = min(1.0, kernels["kernel_seconds"] / seconds)
        return figures | kernels

    return Cell({"network": name, "batch": batch, "precision": precision, "mode": mode}, measure)


def _learner(config: Config, bench: Bench, mode: str) -> Learner:
    if mode in ("eager", GRAPH):
        return Learner(config.override({"training.cuda_graph": mode == GRAPH}), (0.5, 1.0), bench.device, _ALONE)
    torch._dynamo.reset()
    compiling = config.override({"training.compile": True})
    if mode == "CUDA graphs":
        return Learner(compiling, (0.5, 1.0), bench.device, _ALONE)
    # The loop itself always asks for graphs. A rehearsal traces and generates no code.
    compile_module, backend = torch.compile, bench.size("inductor", "aot_eager")
    with patch.object(torch, "compile", lambda module, mode: compile_module(module, backend=backend)):
        return Learner(compiling, (0.5, 1.0), bench.device, _ALONE)


def _kernels(step: Callable[[], Any]) -> dict[str, Any]:
    """What a step runs on the device: kernels, and the seconds that they take; a reason where the profiler does not say."""
    steps = 3
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(steps):
                step()
            torch.cuda.synchronize()
        ran = [event for event in profiler.events() or [] if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    except Exception as error:  # the step has been timed already, whatever this is
        return {"profiler": f"{type(error).__name__}: {error}"}
    if not ran:
        return {"profiler": "saw no kernel"}
    return {"kernels": len(ran) / steps, "kernel_seconds": 1e-6 * sum(event.time_range.elapsed_us() for event in ran) / steps}


def _stream(bench: Bench, name: str) -> Callable[[], dict[str, Any]]:
    """Rows per second that threads draw; steps per second on rows that are drawn meanwhile, and on a batch that is there.

    In this order: threads draw hundreds of batches ahead where they can, and steps that take those never wait.
    """

    def measure() -> dict[str, Any]:
        batch, seconds = bench.size(BATCHES[0], 16), bench.size(_STREAM_SECONDS, 0.05)
        config = network_config(name, bench.tiny, {"training.endless": True, "training.batch_size": batch})
        source = Endless(config.data, _BATCHES_AN_EPOCH * batch, config.training, bench.device, _ALONE)
        learner = _learner(config, bench, "eager")
        there = Part(repeat(config.data, batch, bench.device), 1.0, batch)
        drawn = _epochs(source)
        with matmul_precision("float32", bench.device) as autocast:
            alone = clock.sustained_seconds(lambda: next(drawn), bench.device, seconds)
            fed = clock.sustained_seconds(lambda: learner.step(next(drawn), 0.0, autocast), bench.device, seconds)
            drawn.close()
            resident = clock.sustained_seconds(lambda: learner.step(there, 0.0, autocast), bench.device, seconds)
        return {
            "batch": batch,
            "threads": num_threads(),
            "drawn_rows_per_second": batch / alone,
            "steps_per_second": 1.0 / fed,
            "steps_per_second_resident": 1.0 / resident,
            "waiting": 1.0 - resident / fed,
        }

    return measure


def _epochs(source: Endless) -> Generator[Part]:
    """One epoch after another."""
    for epoch in itertools.count():
        yield from source.epoch(epoch)
