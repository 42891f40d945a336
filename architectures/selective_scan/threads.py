"""The threads that share the work of a kernel: PyTorch's own where they can be borrowed, else Python threads.

PyTorch's threads (GNU OpenMP's) go on spinning for milliseconds after their last piece of work, so other threads would have
to take turns with them on the same cores. Compiled code asks for them by the function `GOMP_parallel`, and so does this module.

A fork does not copy threads, and OpenMP in a forked child waits for them for ever, in PyTorch's own operations too. So a forked
child of a process that has imported this module computes PyTorch's operations on one thread, and kernels on Python threads.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch  # loads the OpenMP that it brings along

_WORK_PER_THREAD = 2**17  # exponentials, about 60 microseconds: what it costs to divide work
_PARTS_PER_THREAD = 4  # so that a thread which was held up leaves its last parts to the others

_PROCESS = os.getpid()
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_inherited_threads = 1  # in a forked child, what its parent had


def _begin_forked_child() -> None:
    global _inherited_threads
    _inherited_threads = max(_inherited_threads, torch.get_num_threads())
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked_child)


def num_threads() -> int:
    """Threads that work may be divided among: PyTorch's setting, or in a forked child, where that is 1, its parent's."""
    return max(torch.get_num_threads(), _inherited_threads)


def share(kernel: Callable[..., None], num_programs: int, work: int, *arguments: Any) -> None:
    """Run all programs of a kernel on at most `num_threads()` threads, this one among them."""
    threads = min(num_threads(), num_programs, work // _WORK_PER_THREAD)
    if threads <= 1:
        kernel(*arguments, 0, num_programs)
        return
    size = -(-num_programs // (threads * _PARTS_PER_THREAD))
    starts = iter(range(0, num_programs, size))  # `next` on it is atomic: the parts are handed out under the GIL
    failures: list[BaseException] = []

    def work_through() -> None:
        try:
            for start in starts:
                kernel(*arguments, start, min(start + size, num_programs))  # holds no GIL
        except BaseException as error:  # Ctrl-C too, which a callback from C would swallow
            failures.append(error)

    run_on_threads(work_through, threads)
    if failures:
        raise failures[0]


def run_on_threads(work: Callable[[], None], num_threads: int) -> None:
    """Call `work` on this thread and, if they are free, on `num_threads` - 1 others; `work` raises nothing.

    Any number of callers may do so at once. A call on another thread may begin late or, after all others have ended, never.
    """
    parallel = openmp()
    if parallel is not None and os.getpid() == _PROCESS:
        parallel(_CALLBACK(lambda _: work()), None, num_threads, 0)
        return
    helpers = [_pool(os.getpid(), num_threads - 1).submit(work) for _ in range(num_threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun, other callers being first, has nothing left to do
            helper.result()


@functools.cache
def openmp() -> Any:
    """`GOMP_parallel(function, data, num_threads, flags)` of the OpenMP in this process; None where there is none."""
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # macOS and Windows have other runtimes
        return None
    parallel.argtypes, parallel.restype = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a forked child has none of its parent's and gets its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="selective-scan")
