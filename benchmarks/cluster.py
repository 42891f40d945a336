"""What running on Ray costs and gains: `python -m benchmarks.cluster [PART ...]`, three quarters of an hour on idle cores.

    command     a tiny `generate`, with Ray and in this process alone: the difference is what any command on Ray takes
    generation  one worker against two: seconds of more rows, so that what is fixed drops out
    sweep       the same for the trials of a sweep
    scheduling  a thousand shards of a row, and a thousand trials that do nothing: time, and the memory of the driver
    streaming   epochs of training on rows that do not fit in memory, from the local disk and from a bucket of a server on this machine

Results go to benchmarks/results/cluster.json part by part.
"""

import argparse
import itertools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from neural_hamilton.platform.progress import track
from neural_hamilton.platform.training.run_folder import History
from neural_hamilton.tune.trials import run_trials

from .generation import watch
from .timing import add_line, compare, time_in_turns

_ROUNDS = 3
_SOME, _MORE = 100_000, 300_000  # rows
_FEW, _MANY = 6, 18  # trials
_SWEEP = {
    "architecture.name": "deeponet",
    "training.epochs": 40,
    "sweep.sampler": "random",
    "sweep.stopper": "none",
    "sweep.space": "{training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}",
}
_STREAMED = {"data.train": 40_000, "data.val": 500, "data.test": 0, "data.shard_rows": 4_000}
_RESIDENT_GIB = 0.01  # so that each file is a window
_TRAINED = {"training.resident_gib": _RESIDENT_GIB, "training.epochs": 3}  # a DeepONet, the cheapest network: others hide more
_STREAMED_ROUNDS = 5  # an epoch takes seconds, and the speed of a machine changes as fast


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description="what running on Ray costs and gains")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(_PARTS)}")
    parts = parser.parse_args(arguments).parts
    if unknown := set(parts) - set(_PARTS):
        parser.error(f"PART is {sorted(unknown)[0]!r}; choose from {', '.join(_PARTS)}")
    for name in parts or _PARTS:
        line = {"part": name} | _PARTS[name]()
        add_line("cluster", line, ["part"], what="what running on Ray costs and gains, on one machine")
        print(line)
    return 0


def _command() -> dict[str, Any]:
    with _folders() as new:
        tiny = ["--train", "10", "--val", "0", "--test", "0"]
        seconds = time_in_turns(
            {
                "generate": lambda: _run("generate", new(), *tiny),
                "generate --local": lambda: _run("generate", new(), *tiny, "--local"),
                "--version": lambda: _run("--version"),
                "Ray's own start and end": _start_ray,
            },
            repeats=_ROUNDS,
        )
    return {"comparison": compare(seconds, "generate --local", "generate"), "seconds": seconds}


def _start_ray() -> None:
    code = "import ray; ray.init(address='local', include_dashboard=False, log_to_driver=False); ray.shutdown()"
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


def _generation() -> dict[str, Any]:
    with _folders() as new:

        def generate(workers: int, rows: int) -> float:
            out = new()
            took = _run("generate", out, "--workers", workers, "--train", rows, "--val", "0", "--test", "0")
            shutil.rmtree(out)
            return took

        return _compare_workers(generate, _SOME, _MORE)


def _sweep() -> dict[str, Any]:
    with _folders() as new:
        dataset = new()
        _run("generate", dataset, "--local", "--train", "1000", "--val", "200", "--test", "0")

        def sweep(workers: int, trials: int) -> float:
            settings = _settings(_SWEEP | {"sweep.max_concurrent": workers})
            return _run("sweep", dataset, "--out", new(), "--trials", trials, *settings)

        return _compare_workers(sweep, _FEW, _MANY)


def _compare_workers(seconds: Callable[[int, int], float], some: int, more: int) -> dict[str, Any]:
    """Of the additional work, seconds with one worker over twice those with two: the median over rounds, and all of them."""
    found = []
    for _ in range(_ROUNDS):
        one, two = (seconds(workers, more) - seconds(workers, some) for workers in (1, 2))
        found.append({"seconds_of_one": one, "seconds_of_two": two, "efficiency": one / two / 2.0})
    return {"from": some, "to": more, "efficiency": statistics.median(each["efficiency"] for each in found), "rounds": found}


def _scheduling() -> dict[str, Any]:
    with _folders() as new:
        settings = ["--set", "data.shard_rows=1", "--train", "1000", "--val", "0", "--test", "0"]
        shards = _watched(*_words("generate", new(), *settings))
        trials = _watched(sys.executable, "-c", f"from benchmarks.cluster import do_nothing; do_nothing({str(new())!r}, 1000)")
    return {"shards": shards, "trials": trials}


def do_nothing(out: str, count: int) -> None:
    """Run `count` trials that end at once."""
    Path(out).mkdir()
    with track("trials", count) as progress:
        run_trials(lambda parameters: None, Path(out) / "scratch", progress, 2, num_samples=count)


def _streaming() -> dict[str, Any]:
    """Seconds of the epochs of training from each place, in turns: those of the run's history, without the start of the command."""
    with _folders() as new, _bucket() as bucket:
        local, remote = new(), f"s3://rows?scheme=http&endpoint_override={bucket}"
        _run("generate", local, "--local", *_settings(_STREAMED))
        store = pafs.S3FileSystem(endpoint_override=bucket, scheme="http", allow_bucket_creation=True)
        store.create_dir("rows")
        pafs.copy_files(str(local), "rows", destination_filesystem=store)

        def train(dataset: Any) -> float:
            run = new()
            _run("train", dataset, "--config", "deeponet", "--local", "--out", run, *_settings(_TRAINED))
            return sum(line["seconds"] for line in History(run).read())

        seconds: dict[str, list[float]] = {"local disk": [], "bucket": []}
        for _ in range(_STREAMED_ROUNDS):
            seconds["local disk"].append(train(local))
            seconds["bucket"].append(train(remote))
    return {"comparison": compare(seconds, "bucket", "local disk"), "seconds": seconds}


@contextmanager
def _bucket() -> Iterator[str]:
    """The address of an S3 server in a process of its own, which shares this machine's cores."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    try:
        deadline = time.monotonic() + 60.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _folders() -> Iterator[Any]:
    """A function that names a new folder each time, all of them deleted in the end."""
    root, numbers = Path(tempfile.mkdtemp(prefix="cluster-")), itertools.count()
    try:
        yield lambda: root / str(next(numbers))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _settings(values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def _words(*words: Any) -> list[str]:
    return [sys.executable, "-m", "neural_hamilton.platform", *map(str, words)]


def _run(*words: Any) -> float:
    """Seconds of a command."""
    started = time.perf_counter()
    subprocess.run(_words(*words), check=True, capture_output=True, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
    return time.perf_counter() - started


def _watched(*command: str) -> dict[str, Any]:
    """Seconds and peak memory of a process and what it starts."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"RAY_AUTH_MODE": "disabled"}
    )
    peaks = watch(process)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {"seconds": time.perf_counter() - started, "peak_mebibytes": {name: round(peak / 2**20) for name, peak in peaks.items()}}


_PARTS = {"command": _command, "generation": _generation, "sweep": _sweep, "scheduling": _scheduling, "streaming": _streaming}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
