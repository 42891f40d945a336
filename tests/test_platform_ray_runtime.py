"""Joining Ray: what it leaves in the environment of workers, and what is in the way of it as one sentence."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import free_port

from neural_hamilton.physics import InputError
from neural_hamilton.platform.cluster import joining
from neural_hamilton.platform.ray_runtime import connect


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
    ids=["default", "count", "policy"],
)
def test_workers_wait_for_each_other_briefly_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)  # the environment is set before Ray starts its workers
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, given.get(name, ""))  # restored afterwards, whatever `connect` sets
        if name not in given:
            monkeypatch.delenv(name)
    connect()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ  # or a `ray start` of this process could join nothing


def test_an_address_where_nothing_listens_is_one_sentence_at_once(run_cli, tmp_path) -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    refused = run_cli("generate", tmp_path / "d", "--train", 4, env={"RAY_ADDRESS": address})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert address in refused.stderr and "Connection refused" in refused.stderr
    assert time.monotonic() - started < 30.0


def test_doctor_notices_an_address_where_nothing_listens(run_cli) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = run_cli("doctor", "--json", env={"RAY_ADDRESS": address})
    (sentence,) = [line for line in json.loads(done.stdout.splitlines()[-1])["advice"] if "RAY_ADDRESS" in line]
    assert address in sentence


def test_something_else_at_the_address_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_PROBE_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(InputError, match="does not respond as Ray does"):
        joining.check_cluster(f"127.0.0.1:{other.getsockname()[1]}")


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:", ":6379", "127.0.0.1:many", "127.0.0.1:0", "ray://127.0.0.1:10001"])
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=f"RAY_ADDRESS is '{address}'; it must be host:port"):
        joining.check_cluster(address)


def test_the_address_of_a_dashboard_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match="RAY_API_SERVER_ADDRESS"):
        joining.check_cluster("http://127.0.0.1:8265")


def test_a_cluster_without_a_node_on_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"ray": "2.60.0", "python": "3.11.7", "compatible": True, "joinable": False}
    monkeypatch.setattr(joining, "_probe", lambda *_: found)
    with socket.create_server(("127.0.0.1", 0)) as head, pytest.raises(InputError, match="no node of that cluster .* submit"):
        joining.check_cluster(f"127.0.0.1:{head.getsockname()[1]}")


def test_a_temporary_folder_with_a_long_path_is_one_sentence(run_cli, tmp_path) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    refused = run_cli("generate", tmp_path / "d", "--train", 4, env={"TMPDIR": str(long), "RAY_TMPDIR": str(long)})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert str(long) in refused.stderr and "RAY_TMPDIR" in refused.stderr


def test_a_private_ray_needs_no_home_that_can_be_written(run_cli, tmp_path) -> None:
    (tmp_path / "file").touch()
    environment = {"HOME": str(tmp_path / "file"), "RAY_AUTH_MODE": "token"}
    done = run_cli("generate", tmp_path / "d", "--train", 4, env=environment)
    assert done.returncode == 0, done.stderr


def test_every_command_starts_where_no_cache_can_be_written(repository: Path, tmp_path: Path) -> None:
    """A copy of the sources whose folders take no cache; root may write anywhere, but not into a file."""
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    for package in ("physics", "architectures", "platform", "tune", "serve"):
        shutil.copytree(repository / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__", "models"))
    for file in ("neural_hamilton.py", "pyproject.toml"):
        shutil.copy(repository / file, checkout)
    for folder in [checkout, *(path for path in checkout.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()
    home.touch()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_CACHE", "XDG_"))}
    environment |= {"PYTHONPATH": str(checkout), "HOME": str(home), "TMPDIR": str(tmp_path)}
    program = [sys.executable, "-B", "-m", "neural_hamilton.platform", "--help"]
    done = subprocess.run(program, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "generate" in done.stdout, done.stderr
