"""Training on a cluster whose workers and nodes come and go: real nodes of Ray on this machine, really killed."""

import json
import os
import subprocess
import sys

import pytest
from training_helpers import config_with, train_in, weights

from neural_hamilton.platform.training.run_folder import prepare_run

SCRIPT = """
import json, sys, threading, time
from pathlib import Path
import psutil, ray
from ray.cluster_utils import Cluster
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.distributed import train_with_ray
from neural_hamilton.platform.progress import Progress
from neural_hamilton.platform.training.run_folder import History

def wait_for(num_epochs):
    while len(History(run).read()) < num_epochs:
        time.sleep(0.01)

dataset, run, outcome = map(Path, sys.argv[1:])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
doomed = cluster.add_node(num_cpus=2)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
results, epochs = [], []
config = load_config(run / "config.yaml")
trainer = threading.Thread(target=lambda: results.append(train_with_ray(config, dataset, run, 1, Progress("train", 1))))
trainer.start()
wait_for(3)
(worker,) = [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]
worker.kill()
epochs.append(len(History(run).read()))
wait_for(epochs[0] + 3)
cluster.remove_node(doomed, allow_graceful=False)
epochs.append(len(History(run).read()))
cluster.add_node(num_cpus=2)
trainer.join()
outcome.write_text(json.dumps([*epochs, results[0]["epochs"]]))
ray.shutdown()
cluster.shutdown()
"""
# How soon a node that no longer answers counts as lost; 15 s otherwise.
IMPATIENT = {"RAY_health_check_initial_delay_ms": "500", "RAY_health_check_period_ms": "300", "RAY_health_check_failure_threshold": "3"}


@pytest.mark.slow
def test_run_goes_on_where_it_was_when_its_worker_is_killed_and_when_its_node_is_removed(tiny_dataset, tmp_path):
    """The worker wants two CPUs, so it ran on the node that went, and goes on on the one that came."""
    config = config_with(training__epochs=200)
    train_in(tmp_path / "quiet", tiny_dataset, config)
    prepare_run(tmp_path / "run", tiny_dataset, config, False)
    command = [sys.executable, "-c", SCRIPT, tiny_dataset, tmp_path / "run", tmp_path / "outcome.json"]
    done = subprocess.run([*map(str, command)], env=os.environ | IMPATIENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    killed, removed, last = json.loads((tmp_path / "outcome.json").read_text())
    assert 3 <= killed < removed < last == 200
    assert weights(tmp_path / "run") == weights(tmp_path / "quiet")
