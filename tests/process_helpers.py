"""Ray's processes below a driver that a test started: to kill some of them, and to end what a killed driver left behind."""

import os
import signal

import psutil


def ray_workers(driver: int, task: str) -> list[psutil.Process]:
    """The Ray workers below `driver` that are inside a task of this name."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and task in title:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def end_session(session: int) -> None:
    """The processes that a killed driver left behind; only those of its session."""
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
