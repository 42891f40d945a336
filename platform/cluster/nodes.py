"""What every node of a cluster has, by one small task on each, and where a node differs from this machine."""

import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from ..ray_runtime import connect

_PACKAGES = ("ray", "torch", "numpy")
_EQUAL = ("python", *_PACKAGES, "code", "auth_mode")  # what must be the same everywhere
_LOW_DISK_BYTES = 2 * 1024**3
_CLOCK_SECONDS = 5.0  # an offset from which deadlines and the order of records suffer
_TASK_SECONDS = 60.0  # how long a node has to start the task


def examine_nodes() -> dict[str, Any]:
    """`driver`, what this machine has; `nodes`, the same of every node, with its address; `advice`, one sentence for each difference.

    A node that does not run the task in time has `problem` in place of its values.
    """
    ray = connect()
    driver = probe_node()
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
    nodes = [_describe(node) | found for node, found in zip(alive, _probe_all(ray, [node["NodeID"] for node in alive]), strict=True)]
    del driver["time"]
    return {"driver": driver, "nodes": nodes, "advice": [sentence for node in nodes for sentence in differences(driver, node)]}


def probe_node() -> dict[str, Any]:
    """Versions, token mode, temporary space and devices of the machine that this runs on, and its time."""
    import torch

    return {
        "python": sys.version.split()[0],
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "code": code_digest(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE", "token"),
        **_temporary_space(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "time": time.time(),
    }


def differences(driver: dict[str, Any], node: dict[str, Any]) -> list[str]:
    """One sentence for each thing in which a node differs from the driver, or that would stop work there."""
    name = f"node {node['address']} ({node['node_id'][:8]})"
    if "problem" in node:
        return [f"{name} did not run a task: {node['problem']}"]
    remedies = {
        "code": "submit commands with `neural-hamilton submit`, or install this version there",
        "auth_mode": "start Ray there with the same RAY_AUTH_MODE",
    }
    found = [
        f"{name} has {key} {node[key]}, this machine {driver[key]}; {remedies.get(key, 'install the same version')}"
        for key in _EQUAL
        if node[key] != driver[key]
    ]
    if not node["temporary_writable"]:
        found.append(f"{name} cannot write to its temporary folder {node['temporary']!r}; set TMPDIR there, or correct its permissions")
    elif node["free_disk_bytes"] < _LOW_DISK_BYTES:
        found.append(f"{name} has {node['free_disk_bytes'] / 1024**3:.1f} GiB free in {node['temporary']!r}; Ray needs at least 2")
    if node["ray_gpus"] != len(node["gpus"]):
        found.append(f"{name} offers {node['ray_gpus']} GPUs to Ray, and torch sees {len(node['gpus'])}; correct its driver or --num-gpus")
    if abs(node["clock_offset_seconds"]) > _CLOCK_SECONDS:
        found.append(f"{name} has a clock that is {node['clock_offset_seconds']:+.1f} s off this machine's; synchronise it")
    return found


@cache
def code_digest() -> str:
    """A digest of the source files of this package, wherever it is installed."""
    digest, root = hashlib.sha256(), Path(__file__).resolve().parents[2]
    for package in ("physics", "architectures", "platform", "tune", "serve"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _describe(node: dict[str, Any]) -> dict[str, Any]:
    resources = node["Resources"]
    return {
        "address": node["NodeManagerAddress"],
        "node_id": node["NodeID"],
        "ray_cpus": resources.get("CPU", 0),
        "ray_gpus": int(resources.get("GPU", 0)),
    }


def _probe_all(ray: Any, identifiers: list[str]) -> list[dict[str, Any]]:
    """What `probe_node` finds on each node, and the offset of its clock; `problem` where a task does not end there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(probe_node)
    tasks = [task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in identifiers]
    started = [one.remote() for one in tasks]
    ready, _ = ray.wait(started, num_returns=len(started), timeout=_TASK_SECONDS)
    return [
        _finish(ray, one, reference) if reference in ready else {"problem": f"it did not start within {_TASK_SECONDS:.0f} s"}
        for one, reference in zip(tasks, started, strict=True)
    ]


def _finish(ray: Any, task: Any, reference: Any) -> dict[str, Any]:
    try:
        found = ray.get(reference)
        begun = time.time()
        clock = ray.get(task.remote(), timeout=_TASK_SECONDS)["time"]  # by a process that has imported everything
        ended = time.time()
    except Exception as error:  # whatever a broken node raises, it is a line in the table
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"problem": " ".join(lines[-1].split())}
    del found["time"]
    # A clock that agrees shows a time between the two; how far it is outside is what is certain.
    return found | {"clock_offset_seconds": min(clock - begun, 0.0) + max(clock - ended, 0.0)}


def _temporary_space() -> dict[str, Any]:
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        writable = True
    except OSError:
        writable = False
    return {"temporary": folder, "temporary_writable": writable, "free_disk_bytes": shutil.disk_usage(folder).free}
