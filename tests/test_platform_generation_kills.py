"""Generation under kill -9, at random moments, of real processes: the dataset comes out the same, byte for byte."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_helpers import end_session, ray_workers

# A slow way to the truth, so that there is something to interrupt: about 4 ms a row.
_FIELDS = {"train": 700, "val": 100, "integrator": "rk4", "shard_rows": 20}
_LOCAL = f"""
import sys
from pathlib import Path
from neural_hamilton.platform.config.data import DataConfig
from neural_hamilton.platform.data.generation import generate
generate(Path(sys.argv[1]), DataConfig(**{_FIELDS}), local=True)
"""


def local_command(folder):
    return [sys.executable, "-c", _LOCAL, str(folder)]


def ray_command(folder):
    """As a user types it."""
    assignments = [word for name, value in _FIELDS.items() for word in ("--set", f"data.{name}={value}")]
    return [sys.executable, "-m", "neural_hamilton.platform", "generate", str(folder), *assignments]


def start(command):
    """Leader of its own session, so that what it leaves behind can be found."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def finish(command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def file_bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def num_shards(folder):
    return len(list(folder.glob("*/*.parquet")))


def wait_for_a_new_shard(folder, process, before):
    while num_shards(folder) <= before:
        assert process.poll() is None, "it must still be at work to be killed"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "dataset"
    finish(local_command(folder))
    return folder


def test_killed_again_and_again_and_run_once_more(undisturbed, tmp_path):
    """Each run is killed at a random moment after its first new shard, and none of them starts over."""
    folder, moments = tmp_path / "dataset", random.Random(0)
    for _ in range(4):
        before = num_shards(folder)
        process = start(local_command(folder))
        wait_for_a_new_shard(folder, process, before)
        time.sleep(moments.uniform(0.0, 0.1))
        assert process.poll() is None, "it must still be at work to be killed"
        process.kill()
        process.wait()
        assert not (folder / "manifest.json").exists()
    finish(local_command(folder))
    assert file_bytes(folder) == file_bytes(undisturbed)


@pytest.mark.slow
def test_ray_workers_and_the_driver_killed(undisturbed, tmp_path):
    """Two workers killed at their tasks while Ray Data runs, then the driver; a run without Ray completes the folder."""
    folder, moments = tmp_path / "dataset", random.Random(1)
    process = start(ray_command(folder))
    try:
        for _ in range(2):
            wait_for_a_new_shard(folder, process, num_shards(folder))
            time.sleep(moments.uniform(0.0, 0.1))
            while not (workers := ray_workers(process.pid, "Map")):
                assert process.poll() is None, "it must still be at work to be killed"
            moments.choice(workers).kill()
        wait_for_a_new_shard(folder, process, num_shards(folder))
        process.kill()
        process.wait()
        assert num_shards(folder) < num_shards(undisturbed)
    finally:
        end_session(process.pid)
    finish(local_command(folder))
    assert file_bytes(folder) == file_bytes(undisturbed)
