"""`ray job submit` against a real cluster of its own, started by `ray start --head` as the guide says."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from serving import free_port

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a one-node cluster with token authentication, ended process by process."""
    home = tmp_path_factory.mktemp("home")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "PYTHONPATH"}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    dashboard = free_port()
    command = [BIN / "ray", "start", "--head", "--block", "--port", free_port(), "--dashboard-port", dashboard, "--num-cpus", 2]
    command += ["--include-dashboard", "true", "--ray-client-server-port", free_port(), "--dashboard-agent-listen-port", free_port()]
    log = (home / "head.log").open("w")
    head = subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/api/version", timeout=2)
                break
            except urllib.error.HTTPError:
                break  # it answers, and asks for the token
            except OSError:
                assert head.poll() is None, (home / "head.log").read_text()
                time.sleep(0.3)
        yield address, environment
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()


def submit(cluster, repository, *arguments):
    address, environment = cluster
    command = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--", "python", "-m", "neural_hamilton.platform"]
    return subprocess.run(
        [str(part) for part in [*command, *arguments]],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_training_runs_as_a_submitted_job_from_a_bare_checkout(cluster, repository, tiny_dataset, tmp_path):
    tiny = ["--set", "architecture.width=8", "--set", "training.epochs=2"]
    done = submit(
        cluster, repository, "train", tiny_dataset, "--arch", "deeponet", "--workers", 1, "--out", tmp_path / "run", "--json", *tiny
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["epochs"] == 2 and (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_mistake_in_a_submitted_job_fails_the_job(cluster, repository, tmp_path):
    failed = submit(cluster, repository, "inspect", tmp_path / "nothing")
    assert failed.returncode == 1 and "does not exist" in failed.stdout


def test_relative_output_in_a_submitted_job_fails_the_job(cluster, repository):
    failed = submit(cluster, repository, "generate", "runs/lost", "--train", 4, "--local")
    assert failed.returncode == 1 and "DEST is 'runs/lost', which lies in the copy of the code that Ray deletes" in failed.stdout
