"""Processes that draw rows for a trainer whose own interpreter is busy."""

import functools
import multiprocessing
import multiprocessing.util
import os
import threading
from concurrent.futures import ProcessPoolExecutor

import torch


@functools.cache
def drawing_processes(number: int) -> ProcessPoolExecutor:
    """`number` processes for whoever asks in this process; they end with it, however it ends.

    They are spawned, as a fork would take along what the trainer has open on its GPU.
    """
    pool = ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    multiprocessing.util.Finalize(None, pool.shutdown, kwargs={"cancel_futures": True}, exitpriority=100)  # before children are waited for
    return pool


def _begin() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
