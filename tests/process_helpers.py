"""Ray's processes that a test started: to kill some of them, and to end what a killed driver left behind."""

import os
import signal
from typing import ClassVar

import psutil


def allow_interruption() -> None:
    """For a child that is to receive Ctrl-C: a shell makes what runs in the background ignore it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


class Nodes:
    """A cluster of Ray on this machine, of a head and two nodes with a CPU each, one of which can be killed at a time.

    Drivers join it with `environment`. Its processes are children of this one.
    """

    # How soon a node that no longer responds counts as lost; 15 s otherwise.
    IMPATIENT: ClassVar = {
        "RAY_health_check_initial_delay_ms": "500",
        "RAY_health_check_period_ms": "300",
        "RAY_health_check_failure_threshold": "3",
    }

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "env_vars": self.IMPATIENT}
        )
        self._nodes = [self._cluster.add_node(num_cpus=1) for _ in range(2)]
        self.environment = {"RAY_ADDRESS": self._cluster.address}

    def replace(self) -> None:
        """Kill the older node with all that runs on it, and start another."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=1))

    def close(self) -> None:
        self._cluster.shutdown()
