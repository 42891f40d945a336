"""`ray job submit` against a real cluster of its own, started by `ray start --head` as the guide says."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from serving import free_port

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A one-node cluster with token authentication, ended process by process: `dashboard`, `gcs` and the `environment` of its users."""
    home = tmp_path_factory.mktemp("home")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "PYTHONPATH"}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    dashboard, gcs = free_port(), free_port()
    command = [BIN / "ray", "start", "--head", "--block", "--port", gcs, "--dashboard-port", dashboard, "--num-cpus", 2]
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
        yield SimpleNamespace(dashboard=address, gcs=f"127.0.0.1:{gcs}", environment=environment)
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()


def submit(cluster, repository, *arguments):
    command = [BIN / "ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", "."]
    command += ["--", "python", "-m", "neural_hamilton.platform"]
    return subprocess.run(
        [str(part) for part in [*command, *arguments]],
        cwd=repository,
        env=cluster.environment,
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


def join(cluster, repository, tmp_path, **environment):
    """A command that joins the cluster."""
    command = [sys.executable, "-m", "neural_hamilton.platform", "generate", str(tmp_path / "d"), "--train", "4"]
    environment = cluster.environment | {"RAY_ADDRESS": cluster.gcs} | environment
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_command_joins_the_cluster_with_its_token(cluster, repository, tmp_path):
    assert join(cluster, repository, tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses the token"),
        ({"RAY_AUTH_TOKEN_PATH": "nothing"}, "has no token"),
        ({"RAY_AUTH_MODE": "disabled"}, "refuses the token"),
    ],
    ids=["wrong token", "no token", "no authentication"],
)
def test_a_cluster_that_refuses_a_command_is_one_sentence(cluster, repository, tmp_path, environment, words):
    refused = join(cluster, repository, tmp_path, **environment)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith(f"error: RAY_ADDRESS is '{cluster.gcs}'") and words in refused.stderr


_OTHER_VERSION = """
import json, sys
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
metadata = json.loads(client.internal_kv_get(CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER))
print(metadata[sys.argv[2]])
metadata[sys.argv[2]] = sys.argv[3]
client.internal_kv_put(CLUSTER_METADATA_KEY, json.dumps(metadata).encode(), True, namespace=KV_NAMESPACE_CLUSTER)
"""


@pytest.mark.parametrize(("key", "version"), [("ray_version", "2.9.3"), ("python_version", "3.9.18")])
def test_a_cluster_of_other_versions_is_one_sentence(cluster, repository, tmp_path, key, version):
    def pretend(version):
        command = [sys.executable, "-c", _OTHER_VERSION, cluster.gcs, key, version]
        return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=True).stdout.strip()

    actual = pretend(version)
    try:
        refused = join(cluster, repository, tmp_path)
    finally:
        pretend(actual)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert version in refused.stderr and actual in refused.stderr


def test_relative_output_in_a_submitted_job_fails_the_job(cluster, repository):
    failed = submit(cluster, repository, "generate", "runs/lost", "--train", 4, "--local")
    assert failed.returncode == 1 and "DEST is 'runs/lost', which lies in the copy of the code that Ray deletes" in failed.stdout
