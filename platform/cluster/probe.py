"""A program that asks a Ray cluster for its versions; a process of its own, because Ray's client may wait for minutes, or abort.

`python probe.py ADDRESS` prints one JSON object: `ray` and `python`, the versions of the cluster, with `compatible`, whether this
installation may join it, and `joinable`, whether a node of it runs on this machine; or `failure`, why there are no versions.
"""

import importlib
import json
import sys
from typing import Any

_NODE_SECONDS = 4  # how long to look for a node on this machine


def probe(address: str) -> dict[str, Any]:
    """Versions of the cluster at `address`, "host:port" or "auto", or the failure: "no cluster", "no token" or "wrong token"."""
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private import services
    from ray._private.utils import check_version_info
    from ray.exceptions import AuthenticationError

    raylet: Any = importlib.import_module("ray._raylet")  # compiled: type checkers see no names in it
    try:
        has_token = raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    except AuthenticationError:  # RAY_AUTH_TOKEN_PATH is no readable file
        has_token = False
    if raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN and not has_token:
        return {"failure": "no token"}  # without this check Ray's client would abort the process
    try:
        client = raylet.GcsClient(address=services.canonicalize_bootstrap_address(address))
        metadata = get_cluster_metadata(client)
    except ConnectionError:
        return {"failure": "no cluster"}
    except AuthenticationError:
        return {"failure": "wrong token"}
    return {
        "ray": metadata["ray_version"],
        "python": metadata["python_version"],
        "compatible": _succeeds(check_version_info, metadata, "this process"),
        "joinable": _succeeds(services.get_node_to_connect_for_driver, client, timeout_seconds=_NODE_SECONDS),
    }


def _succeeds(check: Any, *arguments: Any, **options: Any) -> bool:
    try:
        check(*arguments, **options)
    except (RuntimeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
