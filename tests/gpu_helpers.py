"""What the tests of `benchmarks.gpu` share."""

import re
import time

import torch

from benchmarks.gpu.bench import Bench

LIMIT = 16 * 2**20  # bytes of a file that may leave the machine


def check_what_leaves_the_machine(out):
    """At most 8 files of at most 16 MiB, no more than two folders down, with plain names."""
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8
    for path in files:
        assert path.stat().st_size <= LIMIT
        assert len(path.relative_to(out).parts) <= 3
        assert re.fullmatch(r"[\w./-]+", path.relative_to(out).as_posix(), re.ASCII)


def bench_on_cpu(out):
    return Bench(torch.device("cpu"), True, time.time() + 300, out)
