"""Whether a driver on this machine can join a cluster, found out in seconds; Ray itself would wait for minutes and print a traceback."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...physics import InputError

_CONNECT_SECONDS, _PROBE_SECONDS = 3.0, 12.0
_UNSET = "or unset RAY_ADDRESS for a private Ray on this machine"
_FAILURES = {
    "no cluster": "and no Ray runs on this machine; start one with `ray start`",
    "no token": "and this machine has no token for it; copy the cluster's to ~/.ray/auth_token, set RAY_AUTH_TOKEN",
    "wrong token": "and the cluster refuses the token of this machine; copy the cluster's to ~/.ray/auth_token, set RAY_AUTH_TOKEN",
}


def cluster_address() -> str | None:
    """The address of the cluster that commands join, that of RAY_ADDRESS or of the submitted job; None: a private one is started."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address == "local":
        return None
    return address or ("auto" if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") else None)


def check_cluster(address: str) -> dict[str, Any]:
    """`ray` and `python`, the versions of the cluster at `address`, after at most 15 seconds.

    Raises
    ------
    InputError
        Where no driver on this machine can join it: the address is malformed, nothing or something else listens there, the token is
        missing or wrong, versions differ, or no node of it is on this machine.
    """
    received = f"RAY_ADDRESS is {address!r}"
    if "://" in address:
        remedy = "give it to `neural-hamilton submit --address`, or to RAY_API_SERVER_ADDRESS" if address.startswith("http") else ""
        raise InputError(f"{received}; it must be host:port of the cluster's head, such as 127.0.0.1:6379; {remedy or _UNSET}")
    if address != "auto":
        _check_reachable(address, received)
    found = _probe(address, received)
    if "failure" in found:
        raise InputError(f"{received}, {_FAILURES[found['failure']]}, {_UNSET}")
    if not found["compatible"]:
        own = f"Ray {importlib.metadata.version('ray')} and Python {sys.version.split()[0]}"
        raise InputError(
            f"{received}, a cluster with Ray {found['ray']} and Python {found['python']}, and this installation has {own}; they must be "
            f"equal: install the cluster's here, {_UNSET}"
        )
    if not found["joinable"]:
        raise InputError(
            f"{received}, and no node of that cluster runs on this machine; submit the command with `neural-hamilton submit`, make this "
            f"machine a node with `ray start --address {address}`, {_UNSET}"
        )
    return {"ray": found["ray"], "python": found["python"]}


def _check_reachable(address: str, received: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{received}; it must be host:port of the cluster's head, such as 127.0.0.1:6379, {_UNSET}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(f"{received}, where no cluster can be reached ({reason}); start it, correct the address, {_UNSET}") from None


def _probe(address: str, received: str) -> dict[str, Any]:
    program = Path(__file__).with_name("probe.py")
    try:
        # -P: the folder of the program is not searched for modules.
        done = subprocess.run(
            [sys.executable, "-P", str(program), address], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{received}, where something listens that does not respond as Ray does within {_PROBE_SECONDS:.0f} s; correct the address, "
            f"restart the cluster, {_UNSET}"
        ) from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise InputError(f"{received}, and Ray's client fails there; look at it with `ray status --address {address}`, {_UNSET}")
    return json.loads(lines[-1])
