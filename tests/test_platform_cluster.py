"""Training on a cluster whose nodes come and go: real nodes of Ray on this machine, one of them really removed."""

import json
import subprocess
import sys

import pytest

from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.run_folder import prepare_run

SCRIPT = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.distributed import train_with_ray
from neural_hamilton.platform.progress import Progress
from neural_hamilton.platform.training.run_folder import History

dataset, run = map(Path, sys.argv[1:])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
doomed = cluster.add_node(num_cpus=2)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
results = []
config = load_config(run / "config.yaml")
trainer = threading.Thread(target=lambda: results.append(train_with_ray(config, dataset, run, 1, Progress("train", 1))))
trainer.start()
while len(History(run).read()) < 3:
    time.sleep(0.02)
cluster.remove_node(doomed, allow_graceful=False)
epochs_before = len(History(run).read())
cluster.add_node(num_cpus=2)
trainer.join()
print(json.dumps({"epochs_before": epochs_before, "epochs": results[0]["epochs"]}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_run_goes_on_where_it_was_when_its_node_is_removed(tiny_dataset, tmp_path):
    """The worker wants two CPUs, so it ran on the node that went, and goes on on the one that came."""
    sizes = {"architecture.width": 16, "architecture.num_layers": 1, "architecture.num_channels": 8}
    config = load_config(None, {"architecture.name": "deeponet", "training.epochs": 200, "training.batch_size": 10} | sizes)
    train(prepare_run(tmp_path / "quiet", tiny_dataset, config, False), tiny_dataset, tmp_path / "quiet")
    prepare_run(tmp_path / "run", tiny_dataset, config, False)
    command = [sys.executable, "-c", SCRIPT, str(tiny_dataset), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert 3 <= outcome["epochs_before"] < outcome["epochs"] == 200
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("quiet", "run")]
    assert weights[0] == weights[1]
