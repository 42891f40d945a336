"""A cluster that starts nodes for the work, from none: Ray's autoscaler, with nodes that are processes of this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_helpers import end_session
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from serving import free_port

pytestmark = pytest.mark.slow
HEAD = "ray.head.default"  # as the provider names it


@pytest.fixture
def environment(tmp_path):
    """How to join a cluster without CPUs that may start two nodes with one each."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "cluster_name": "processes",
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "disable_node_updaters": True,  # else it would log in to its nodes
            "disable_launch_config_check": True,
        },
        "max_workers": 2,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 10.0,
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }
    config |= {key: {} for key in ("auth", "docker", "file_mounts")}
    config |= {key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")} | {"file_mounts_sync_continuously": False}
    config |= {f"{prefix}_commands": [] for prefix in ("initialization", "setup", "head_setup", "worker_setup")}
    config |= {f"{role}_start_ray_commands": [] for role in ("head", "worker")}
    path = tmp_path / "cluster.json"
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
    deadline = time.monotonic() + 60
    while subprocess.run([command[0], "health-check", "--address", address], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline and head.poll() is None
    yield {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    end_session(head.pid)
    head.wait()


def test_nodes_are_started_for_generation(run_cli, environment, tmp_path):
    made = run_cli("generate", tmp_path / "data", "--train", 40, "--val", 8, "--test", 0, "--sensors", 20, "--times", 20, env=environment)
    assert made.returncode == 0, made.stderr
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["counts"] == {"train": 40, "val": 8, "test": 0}


def test_nodes_are_started_for_training_that_asks_for_them(run_cli, environment, tiny_dataset, tmp_path):
    settings = {"architecture.width": 8, "architecture.num_layers": 1, "architecture.num_channels": 4, "training.epochs": 1}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    train = ["train", tiny_dataset, "--arch", "deeponet", "--workers", 2, *words, "--json", "--out", tmp_path / "run"]
    refused = run_cli(*train, env=environment)
    assert (
        refused.returncode == 2 and "--workers is 2; this cluster has 0 CPUs: give --cpus-per-worker if it starts nodes" in refused.stderr
    )
    done = run_cli(*train, "--cpus-per-worker", 1, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["epochs"] == 1
