"""Whether the nodes of a cluster see what a command writes and reads on the local disk of the one that it runs on."""

import hashlib
import time
import uuid
from pathlib import Path
from typing import Any

from ..physics import InputError
from .data.manifest import MANIFEST_FILE
from .storage import Location

_REPLY_S = 120  # a node may have to start a process first
_PATIENCE_S = 3.0  # a network disk may show a new file late


def check_shared(ray: Any, folder: Location, named: str, dataset: Location | None = None, *, urls: bool = False) -> None:
    """Refuse a local folder, or a local dataset, that another node of the cluster does not see. It costs nothing on a single node.

    Parameters
    ----------
    ray
        The module, connected.
    folder, named
        Where tasks write, which exists, and what the user calls it. A file is written there for other nodes to read, and deleted.
    dataset
        What tasks read.
    urls
        Whether `folder` may be a URL, for the remedy.

    Raises
    ------
    InputError
        Names the node, the folder and a remedy.
    """
    others = _other_nodes(ray)
    if not others or not any(isinstance(place, Path) for place in (folder, dataset)):
        return
    probe = folder / f".probe-{uuid.uuid4().hex}.partial" if isinstance(folder, Path) else None
    expected: dict[Path, str] = {}
    if isinstance(dataset, Path):
        expected[dataset / MANIFEST_FILE] = _hash(dataset / MANIFEST_FILE)
    try:
        if probe is not None:
            probe.write_bytes(uuid.uuid4().bytes)
            expected[probe] = _hash(probe)
        unseen = _ask(ray, others, expected)
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)
    for node, path in unseen:
        by_url = path != probe or urls
        remedy = "mount a disk that all nodes share under the same path" + (", or give a URL such as s3://BUCKET/FOLDER" * by_url)
        what = f"{named} {str(folder)!r}" if path == probe else f"dataset {str(dataset)!r}"
        raise InputError(f"node {node} does not see {what}, which lies on a disk of this machine; {remedy}")


def _other_nodes(ray: Any) -> dict[str, str]:
    """What the nodes are called that may run tasks, by their IDs, without this one."""
    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU")]
    return {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in alive}


def _ask(ray: Any, nodes: dict[str, str], expected: dict[Path, str]) -> list[tuple[str, Path]]:
    """The files that a node does not see as they are here, with the node. One that is lost meanwhile runs no task."""
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(_find_unseen)
    replies = {node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(expected) for node in nodes}
    unseen, deadline = [], time.monotonic() + _REPLY_S
    for node, reply in replies.items():
        try:
            unseen += [(nodes[node], path) for path in ray.get(reply, timeout=max(0.0, deadline - time.monotonic()))]
        except GetTimeoutError:
            raise InputError(
                f"node {nodes[node]} does not respond within {_REPLY_S} s; remove it from the cluster, or wait for it"
            ) from None
        except RayError:
            continue
    return unseen


def _find_unseen(expected: dict[Path, str]) -> list[Path]:
    """Those of the files that are not here, or are others, by their hashes."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        unseen = [path for path, content in expected.items() if _hash(path) != content]
        if not unseen or time.monotonic() > deadline:
            return unseen
        time.sleep(0.2)


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
