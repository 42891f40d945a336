"""What the device is and what it can do: the ceilings that everything else is held against."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from neural_hamilton.platform.training.precision import matmul_precision

from . import clock
from .bench import Bench, Cell

_COPIED = 2**30  # bytes; far more than a cache holds
_MATRIX = 8192
_LAUNCHES = 2000


def cells(bench: Bench) -> Iterator[Cell]:
    yield Cell({"what": "machine"}, lambda: _machine(bench.device))
    yield Cell({"what": "copy"}, lambda: {"bytes_per_second": _copy(bench)})
    yield Cell({"what": "copy from the host"}, lambda: {"bytes_per_second": _upload(bench)})
    yield Cell({"what": "launch"}, lambda: {"seconds": _launch(bench)})
    for precision in ("float32", "tf32", "bf16"):
        yield Cell({"what": f"matrix product, {precision}"}, _matrix_product(bench, precision))


def _machine(device: torch.device) -> dict[str, Any]:
    figures: dict[str, Any] = {"python": sys.version.split()[0], "cpus": os.cpu_count(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        figures |= {"gpu": properties.name, "memory_bytes": properties.total_memory, "multiprocessors": properties.multi_processor_count}
        figures["driver"] = _driver()
    try:
        import triton

        return figures | {"triton": triton.__version__}
    except ModuleNotFoundError:
        return figures | {"triton": None}


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout.strip() or None


def _copy(bench: Bench) -> float:
    """Bytes read and written a second."""
    source = torch.randn(bench.size(_COPIED, 2**16) // 4, device=bench.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / clock.median_seconds(lambda: target.copy_(source), bench.device)


def _upload(bench: Bench) -> float:
    """From ordinary memory, as batches come."""
    source = torch.randn(bench.size(_COPIED // 4, 2**16) // 4)
    return source.nbytes / clock.median_seconds(lambda: source.to(bench.device, copy=True), bench.device)


def _launch(bench: Bench) -> float:
    """Of one small operation among many: what the host needs to start it."""
    x = torch.zeros(1, device=bench.device)
    count = bench.size(_LAUNCHES, 10)

    def many() -> None:
        for _ in range(count):
            x.add_(1.0)

    return clock.sustained_seconds(many, bench.device, bench.size(0.5, 0.01)) / count


def _matrix_product(bench: Bench, precision: str) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        bench.check_precision(precision)
        size = bench.size(_MATRIX, 64)
        a, b = torch.randn(2, size, size, device=bench.device)
        with matmul_precision(precision, bench.device) as autocast, autocast():
            if precision == "bf16":
                a, b = a.bfloat16(), b.bfloat16()
            return {"operations_per_second": 2 * size**3 / clock.median_seconds(lambda: a @ b, bench.device)}

    return measure
