"""`generate` as a user runs it: rows a second and the memory of every process, at growing sizes.

The whole command is timed, Ray's start included. Ten million bytes do not matter here, so it is one run a size.
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

from neural_hamilton.physics import Ensemble, draw_rows
from neural_hamilton.physics.ensembles import ROWS_VERSION, draw_noise

_SIZES = {1_000: (800, 200), 10_000: (8_000, 2_000), 100_000: (80_000, 20_000)}
_LARGEST = {1_000_000: (800_000, 200_000)}  # minutes and a gigabyte: on request
_SAMPLE_SECONDS = 0.1


def measure(large: bool = False) -> dict[str, Any]:
    """Run every size once; memory is sampled over the whole tree of processes."""
    runs = []
    for rows, (train, val) in (_SIZES | (_LARGEST if large else {})).items():
        runs.append({"rows": rows} | _run(train, val))
    return {
        "what": "`generate` of certified rows of the preset paper (80% train, 20% val), the whole command with Ray's start",
        "comparisons": [],
        "runs": runs,
        "microseconds_of_a_potential": _time_potentials(),
        "rows_version": ROWS_VERSION,
    }


def _run(train: int, val: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="generation-"))
    command = [sys.executable, "-m", "neural_hamilton.platform", "generate", str(folder / "dataset"), "--train", str(train), "--val", str(val)]
    try:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
        peaks = _watch(process)
        seconds = time.perf_counter() - started
        assert process.returncode == 0, f"generate ended with {process.returncode}"
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "seconds": seconds,
        "rows_per_second": (train + val) / seconds,
        "bytes_per_row": size / (train + val),
        "peak_mebibytes": {name: round(peak / 2**20) for name, peak in peaks.items()},
    }


def _watch(process: subprocess.Popen[bytes]) -> dict[str, int]:
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


def _time_potentials() -> dict[str, float]:
    """Microseconds a potential: drawn and splined, and sampled at 100 sensors, in one thread."""
    from neural_hamilton.physics.curve_batches import CurveBatch
    from neural_hamilton.physics.ensembles import draw_potentials

    count, sensors = 4_000, np.linspace(0.0, 1.0, 100)
    ensemble = Ensemble("paper")

    def draw() -> CurveBatch:
        drawn = draw_potentials(ensemble, 0, "test", 0, count)
        return CurveBatch.from_control_points(drawn["control_q"], drawn["control_v"], drawn["num_control"])
