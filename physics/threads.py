"""Rows of a batch shared among threads of Python.

Not among Numba's own threads: those may abort the process under servers with threads and in forked workers. Compiled
kernels release the lock (`nogil=True`), and every row is computed by one thread, so results do not depend on their number.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_ROWS_PER_CHUNK = 64  # handed to a thread at a time


def share_rows(work: Callable[[slice], None], num_rows: int, num_threads: int | None) -> None:
    """Call `work` on chunks of `num_rows` rows from `num_threads` threads, by default as many as this process has CPUs."""
    chunks = [slice(first, first + _ROWS_PER_CHUNK) for first in range(0, num_rows, _ROWS_PER_CHUNK)]
    num_threads = min(num_threads or _num_cpus(), len(chunks))
    if num_threads > 1:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(work, chunks))
    else:
        work(slice(None))


def _num_cpus() -> int:
    """CPUs this process may use; not every operating system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
