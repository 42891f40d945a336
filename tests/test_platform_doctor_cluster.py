"""`doctor --cluster` on a real cluster of two nodes, one of which differs; and every difference by itself."""

import json

import pytest

from neural_hamilton.platform.cluster.nodes import code_digest, differences, probe_node

HEALTHY = {
    "address": "10.0.0.2",
    "node_id": "abcdef0123456789",
    "ray_cpus": 4.0,
    "ray_gpus": 0,
    "clock_offset_seconds": 0.0,
}


@pytest.fixture(scope="module")
def two_nodes():
    """The address of a cluster with a head, and a node that claims a GPU."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, num_gpus=1)
    yield cluster.address
    cluster.shutdown()


def test_a_node_that_differs_is_named(run_cli, two_nodes):
    done = run_cli("doctor", "--cluster", "--json", env={"RAY_ADDRESS": two_nodes, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["nodes"]) == 2 and report["driver"]["code"] == code_digest()
    claims = next(node for node in report["nodes"] if node["ray_gpus"] == 1)
    for node in report["nodes"]:
        assert {key: node[key] for key in ("python", "ray", "torch", "numpy", "code")} == {
            key: report["driver"][key] for key in ("python", "ray", "torch", "numpy", "code")
        }
        assert abs(node["clock_offset_seconds"]) < 1.0 and node["temporary_writable"]
    (advice,) = [sentence for sentence in report["advice"] if "GiB free" not in sentence]
    assert claims["node_id"][:8] in advice and "1 GPUs to Ray" in advice


def test_without_a_cluster_the_private_one_is_examined_as_a_table(run_cli):
    done = run_cli("doctor", "--cluster")
    assert done.returncode == 0, done.stderr
    header, _, driver, node, *_ = done.stdout.splitlines()
    assert header.split() == ["node", "python", "ray", "torch", "numpy", "code", "auth_mode", "cpus", "gpus", "free", "clock"]
    assert driver.startswith("this machine") and code_digest() in node


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"python": "3.9.18"}, "has python 3.9.18"),
        ({"ray": "2.9.3"}, "has ray 2.9.3"),
        ({"torch": "2.11.0"}, "has torch 2.11.0"),
        ({"numpy": "1.26.4"}, "has numpy 1.26.4"),
        ({"code": "0123456789ab"}, "neural-hamilton submit"),
        ({"auth_mode": "other"}, "RAY_AUTH_MODE"),
        ({"temporary_writable": False}, "cannot write to its temporary folder"),
        ({"free_disk_bytes": 2**30}, "1.0 GiB free"),
        ({"ray_gpus": 2}, "offers 2 GPUs to Ray, and torch sees 0"),
        ({"clock_offset_seconds": -61.0}, "-61.0 s off"),
        ({"problem": "it did not start within 60 s"}, "did not run a task: it did not start"),
    ],
)
def test_every_difference_is_one_sentence_that_names_the_node(change, words):
    driver = probe_node() | {"gpus": [], "free_disk_bytes": 2**40}
    found = differences(driver, HEALTHY | driver | change)
    assert len(found) == (words is not None)
    for sentence in found:
        assert sentence.startswith("node 10.0.0.2 (abcdef01) ") and words in sentence
