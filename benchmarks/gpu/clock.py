"""How work on a device is timed: by its events, after a warm-up, with the cache flushed; the median of many calls."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

_WARM_UP_MS, _REPEAT_MS = 25, 150
_CPU_CALLS = 2


def median_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, as the device has it: what the host does meanwhile counts only where the device waits for it."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return 1e-3 * float(do_bench(work, warmup=_WARM_UP_MS, rep=_REPEAT_MS, return_mode="median"))
    work()
    return statistics.median(_wall_seconds(work) for _ in range(_CPU_CALLS))


def sustained_seconds(work: Callable[[], Any], device: torch.device, seconds: float, warm_up: int = 3) -> float:
    """Seconds of one call in a row of calls that lasts about `seconds`, host and device together."""
    for _ in range(warm_up):
        work()
    wait_for(device)
    started, number = time.perf_counter(), 0
    while number < 2 or time.perf_counter() - started < seconds:
        work()
        number += 1
        if number % 8 == 0:  # the host may run far ahead of the device, and would then stop too late
            wait_for(device)
    wait_for(device)
    return (time.perf_counter() - started) / number


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _wall_seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
