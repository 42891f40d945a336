"""Clusters whose nodes have disks of their own: a node in a private mount namespace, where a folder of the test is another one."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.platform import shared_folders
from neural_hamilton.platform.shared_folders import check_shared
from neural_hamilton.platform.storage import locate

SCRIPT = """
import sys, time
import ray
from neural_hamilton.physics import InputError
from neural_hamilton.platform.commands.console import run_command
from neural_hamilton.platform.cli import cli

dataset, private, url = sys.argv[1:]
ray.init(log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.2)
sizes = "--train 8 --val 4 --sensors 8 --times 5 --set data.shard_rows=2".split()
small = "--arch deeponet --set architecture.width=8 --set training.epochs=1".split()
for words in (
    ["generate", private + "/data", *sizes],
    ["generate", url, *sizes],
    ["train", dataset, "--workers", "2", "--out", private + "/run", *small],
    ["train", private + "/copy", "--workers", "2", "--out", dataset + "-run", *small],
    ["sweep", dataset, "--trials", "1", "--out", private + "/sweep", *small],
    ["scale", dataset, "--sizes", "16,32,64", "--seeds", "1", "--out", private + "/scale", "--arch", "deeponet"],
):
    print("exit", run_command(cli, words), file=sys.stderr, flush=True)
"""


@pytest.fixture
def cluster_with_private_disk(tmp_path):
    """The address of a cluster of two nodes, the second of which has an empty disk in the place of `tmp_path / "private"`."""
    from ray.cluster_utils import Cluster

    private = tmp_path / "private"
    private.mkdir()
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("mounting a disk for one node needs root")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray = Path(sys.executable).parent / "ray"
    start = f"mount -t tmpfs tmpfs {private} && exec {ray} start --address {cluster.address} --num-cpus 1 --block --disable-usage-stats"
    log = (tmp_path / "node.log").open("w")
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", start], stdout=log, stderr=log)
    try:
        yield cluster.address, private
    finally:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            process.kill()
        node.wait()
        cluster.shutdown()


@pytest.fixture
def other_node(ray_session, monkeypatch):
    """The only node stands for another one, where what lies in `disk` has another content."""
    here = ray_session.get_runtime_context().get_node_id()
    monkeypatch.setattr(shared_folders, "_other_nodes", lambda _: {here: "10.0.0.5 (abcd)"})
    disks = []

    def find_unseen(expected):
        return [path for path in expected if any(path.is_relative_to(disk) for disk in disks)]

    monkeypatch.setattr(shared_folders, "_find_unseen", find_unseen)
    return disks


def test_one_sentence_names_the_node_the_folder_and_a_remedy(ray_session, other_node, tiny_dataset, tmp_path):
    check_shared(ray_session, tmp_path, "--out", tiny_dataset)
    other_node.append(tmp_path)
    with pytest.raises(InputError, match=r"node 10.0.0.5 \(abcd\) does not see --out '.*'.*; mount a disk that all nodes share.*path$"):
        check_shared(ray_session, tmp_path, "--out", tiny_dataset)
    with pytest.raises(InputError, match="or give a URL such as s3://"):
        check_shared(ray_session, tmp_path, "destination", urls=True)
    check_shared(ray_session, locate("s3://bucket/data"), "destination")
    other_node[:] = [tiny_dataset]
    with pytest.raises(InputError, match="does not see dataset '.*or give a URL"):
        check_shared(ray_session, tmp_path, "--out", tiny_dataset)
    assert list(tmp_path.iterdir()) == []


def test_the_node_compares_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folders, "_PATIENCE_S", 0.0)
    (tmp_path / "same").write_bytes(b"1")
    (tmp_path / "other").write_bytes(b"2")
    expected = {tmp_path / name: hashlib.sha256(b"1").hexdigest() for name in ("same", "other", "missing")}
    assert shared_folders._find_unseen(expected) == [tmp_path / "other", tmp_path / "missing"]


def test_on_one_node_nothing_is_asked(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folders, "_ask", None)
    check_shared(ray_session, tmp_path, "--out", tmp_path / "missing")


@pytest.mark.slow
def test_a_folder_that_a_node_does_not_see_is_refused_before_any_work(cluster_with_private_disk, tiny_dataset, store, bucket, tmp_path):
    address, private = cluster_with_private_disk
    shutil.copytree(tiny_dataset, private / "copy")
    url = store.url(f"{bucket}/data")
    command = [sys.executable, "-c", SCRIPT, tiny_dataset, private, url]
    environment = os.environ | {"RAY_ADDRESS": address}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=200, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error", "exit"))]
    codes = [line for line in lines if line.startswith("exit")]
    assert codes == ["exit 2", "exit 0", "exit 2", "exit 2", "exit 2", "exit 2"], done.stderr
    errors = [line for line in lines if line.startswith("error")]
    places = ["destination", "--out", "dataset", "--out", "--out"]
    for line, place in zip(errors, places, strict=True):
        assert f"does not see {place} '{private}/" in line and line.startswith("error: node ") and "mount a disk" in line
    assert "give a URL such as s3://" in errors[0] and "give a URL" in errors[2] and "give a URL" not in errors[1]
    assert not [path for path in private.rglob("*") if path.name.endswith(".partial") or path.match("data/*/part-*")]
    assert len(store.objects(bucket, "data")) == 8
