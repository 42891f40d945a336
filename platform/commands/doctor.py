"""The command `doctor`: what this machine has, what is wrong with it, and what to do about it."""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from ...physics import InputError
from .console import emit, json_option
from .tables import format_facts, format_table

_PACKAGES = (
    "torch",
    "ray",
    "numpy",
    "scipy",
    "numba",
    "pyarrow",
    "optuna",
    "pydantic",
    "safetensors",
    "pytorch-optimizer",
    "tensorboardX",
    "mamba-ssm",
)
_COLUMNS = ("python", "ray", "torch", "numpy", "code", "auth_mode", "cpus", "gpus", "free", "clock")  # of a table of nodes
_OPTIONAL = {"mamba-ssm"}
_LOW_DISK_BYTES = 2 * 1024**3


@click.command()
@click.option("--cluster", is_flag=True, help="Check every node of the cluster of RAY_ADDRESS against this machine, by one task on each.")
@json_option
def doctor(cluster: bool, as_json: bool) -> None:
    """Check the installation, and say what to fix.

    Shows versions, devices, the set-up of Ray and free disk.
    """
    if cluster:
        _examine_cluster(as_json)
        return
    report = examine()
    lines = [format_facts({key: value for key, value in report.items() if key != "advice"})]
    lines += [f"fix: {sentence}" for sentence in report["advice"]] or ["everything needed is here"]
    emit(report, as_json, "\n".join(lines))


def _examine_cluster(as_json: bool) -> None:
    from ..cluster.joining import cluster_address
    from ..cluster.nodes import examine_nodes

    report = examine_nodes()
    rows = [{"node": "this machine"} | _row(report["driver"])]
    rows += [{"node": f"{node['address']} ({node['node_id'][:8]})"} | _row(node) for node in report["nodes"]]
    advice = [f"fix: {sentence}" for sentence in report["advice"]] or ["all nodes have what this machine has"]
    if cluster_address() is None:
        advice.append("RAY_ADDRESS is not set, so this was a private Ray of this machine; set it to the cluster's host:port")
    emit(report, as_json, "\n".join([format_table(rows), *advice]))


def _row(node: dict[str, Any]) -> dict[str, Any]:
    """A line of the table; dashes where the node did not run the task."""
    if "problem" in node:
        return dict.fromkeys(_COLUMNS)
    free = f"{node['free_disk_bytes'] / 1024**3:.0f} GiB" if node["temporary_writable"] else "not writable"
    shown = node | {"gpus": len(node["gpus"]), "free": free, "clock": f"{node.get('clock_offset_seconds', 0.0):+.1f} s"}
    return {key: shown[key] for key in _COLUMNS}


def examine() -> dict[str, Any]:
    """Versions, devices, scan backends, Ray set-up and free disk; `advice` holds one sentence for each thing to fix."""
    import torch

    from ...architectures.selective_scan import BACKENDS, VARIABLE, choose_backend, why_not
    from ..cluster.joining import check_cluster, cluster_address
    from ..provenance import code_version

    versions = {name: _version(name) for name in _PACKAGES}
    free = shutil.disk_usage(Path.cwd()).free
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        scan_backend, scan_advice = choose_backend(device), []
    except InputError as error:
        scan_backend, scan_advice = None, [f"{error}; unset {VARIABLE}, or name another"]
    report = {
        "code_version": code_version(),
        "python": sys.version.split()[0],
        "packages": versions,
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "scan_backend": scan_backend,
        "scan_backends": {name: why_not(name, device, torch.float32) or f"runs on {device}" for name in BACKENDS},
        "ray_address": os.environ.get("RAY_ADDRESS"),
        "ray_auth_mode": os.environ.get("RAY_AUTH_MODE", "token (set by this program)"),
        "ray_token": token.exists() or bool(os.environ.get("RAY_AUTH_TOKEN")),
        "free_disk_bytes": free,
    }
    advice = [
        f"{name} is not installed; run: pip install -c constraints.txt -e ."
        for name, v in versions.items()
        if v is None and name not in _OPTIONAL
    ]
    advice += scan_advice
    address = cluster_address()
    if address is not None:
        try:
            report["ray_cluster"] = check_cluster(address)
        except InputError as error:
            advice.append(str(error))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        advice.append(f"Python {report['python']} is not supported; use 3.11 to 3.13")
    if free < _LOW_DISK_BYTES:
        advice.append(f"only {free / 1024**3:.1f} GiB of disk are free here; Ray needs at least 2")
    return report | {"advice": advice}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


COMMANDS = (doctor,)
