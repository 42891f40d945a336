"""A cluster that starts nodes for the work, from none: Ray's autoscaler, with nodes that are processes of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import end_session
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from serving import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """How to join a cluster without CPUs that may start two nodes with one each."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "cluster_name": "processes",
        "provider": {"type": "fake_multinode", "gcs_address": address},
        "max_workers": 2,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 10.0,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }
    config |= {key: {} for key in ("auth", "docker", "file_mounts")}
    config |= {f"{prefix}_commands": [] for prefix in ("initialization", "setup", "head_setup", "worker_setup")}
    config |= {f"{role}_start_ray_commands": [] for role in ("head", "worker")}
    path = tmp_path_factory.mktemp("cluster") / "config.json"
    path.write_text(json.dumps(config))
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--node-ip-address", "127.0.0.1", "--port", address.split(":")[1]]
    command += [f"--autoscaling-config={path}", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats", "--block"]
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    head = subprocess.Popen(command, env=os.environ | settings, **streams)
    yield {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    end_session(head.pid)
    head.wait()


def test_nodes_are_started_for_generation_and_for_training(run_cli, environment, tmp_path):
    rows = ["--train", 40, "--val", 8, "--test", 0, "--sensors", 20, "--times", 20]
    made = run_cli("generate", tmp_path / "data", *rows, env=environment)
    assert made.returncode == 0, made.stderr
    settings = {"architecture.width": 8, "architecture.num_layers": 1, "architecture.num_channels": 4, "training.epochs": 1}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    train = ["train", tmp_path / "data", "--arch", "deeponet", "--workers", 2, *words, "--json"]
    refused = run_cli(*train, "--cpus-per-worker", 1, "--local", "--out", tmp_path / "local", env=environment)
    assert refused.returncode == 2 and "leave out --cpus-per-worker" in refused.stderr
    done = run_cli(*train, "--cpus-per-worker", 1, "--out", tmp_path / "run", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["epochs"] == 1
