"""`generate` as a user runs it: rows a second and the memory of every process, at growing sizes.

The whole command is timed, Ray's start included: one run a size, for there is no peer to take turns with.
`NEURAL_HAMILTON_BENCH_LARGE=1` adds a million rows, minutes and a gigabyte of disk.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from neural_hamilton.physics import Curves
from neural_hamilton.physics.systems import ROWS_VERSION, Draws, draw_rows, get_system

from .timing import time_in_turns

_SIZES = {1_000: (800, 200), 10_000: (8_000, 2_000), 100_000: (80_000, 20_000)}
_LARGEST = {1_000_000: (800_000, 200_000)}
_SAMPLE_SECONDS = 0.25


def measure() -> dict[str, Any]:
    """Run every size once; memory is sampled over the whole tree of processes."""
    sizes = _SIZES | (_LARGEST if os.environ.get("NEURAL_HAMILTON_BENCH_LARGE") else {})
    runs = [{"rows": rows} | _run(train, val) for rows, (train, val) in sizes.items()]
    return {
        "what": "`generate` of certified rows of the ensemble paper (80% train, 20% val), the whole command with Ray's start",
        "comparisons": [],
        "runs": runs,
        "microseconds_in_one_thread": _time_steps(),
        "rows_version": ROWS_VERSION,
    }


def _run(train: int, val: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="generation-"))
    command = [sys.executable, "-m", "neural_hamilton.platform", "generate", str(folder / "dataset")]
    command += ["--train", str(train), "--val", str(val), "--test", "0"]
    try:
        started = time.perf_counter()
        environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        peaks = watch(process)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"generate ended with {process.returncode}")
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "seconds": seconds,
        "rows_per_second": (train + val) / seconds,
        "bytes_per_row": size / (train + val),
        "peak_mebibytes": {name: round(peak / 2**20) for name, peak in peaks.items()},
    }


def watch(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Peak private memory (bytes) of the driver, of the worst Ray worker, and of any process."""
    peaks: dict[str, int] = defaultdict(int)
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            tree = [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in tree:
            try:
                memory = member.memory_info()
                name = member.name()
            except psutil.NoSuchProcess:
                continue
            private = memory.rss - memory.shared
            peaks["any process"] = max(peaks["any process"], private)
            kind = "driver" if member.pid == driver.pid else "worker" if name.startswith("ray::") else "Ray's own"
            peaks[kind] = max(peaks[kind], private)
        time.sleep(_SAMPLE_SECONDS)
    process.wait()
    return dict(peaks)


def _time_steps() -> dict[str, float]:
    """Microseconds a row of what a worker does: draw and spline potentials, sample them, and the whole certified row."""
    count, well, sensors = 4_000, get_system("well"), np.linspace(0.0, 1.0, 100)
    ensemble = well.get_ensemble("paper")()

    def spline() -> Curves:
        polygons = ensemble.draw_polygons(Draws(0, "test", np.arange(count)))
        return Curves.from_control_points(polygons["control_q"], polygons["control_v"], polygons["num_control"])

    seconds = time_in_turns(
        {
            "potential drawn and splined": spline,
            "potential drawn, splined and sampled at 100 sensors": lambda: spline().sample(sensors),
            "certified row, in memory": lambda: draw_rows(well, ensemble, 0, "test", np.arange(count)),
        },
        repeats=5,
    )
    return {name: round(1e6 * float(np.median(values)) / count, 2) for name, values in seconds.items()}
