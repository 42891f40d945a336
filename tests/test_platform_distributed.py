"""Training under Ray Train: real workers, one of them really killed, and a disk that is full."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from training_helpers import config_with, history, train_in, weights

from neural_hamilton.physics import InputError
from neural_hamilton.platform.progress import Progress
from neural_hamilton.platform.training.distributed import cpus_per_worker, train_with_ray
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.run_folder import prepare_run


def test_one_worker_and_two_agree_with_this_process(ray_session, tiny_dataset, tmp_path):
    losses = {}
    for workers in (0, 2):
        run = tmp_path / str(workers)
        config = prepare_run(run, tiny_dataset, config_with(training__batch_size=7), False)  # 64 rows in sevens: the last batch has one row
        if workers:
            train_with_ray(config, tiny_dataset, run, workers, Progress("train", 3))
        else:
            train(config, tiny_dataset, run)
        losses[workers] = [line["validation_loss"] for line in history(run)]
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


def test_refusal_inside_ray_workers_is_one_sentence(ray_session, tiny_dataset, tmp_path):
    config = prepare_run(
        tmp_path / "run", tiny_dataset, config_with(training__learning_rate=1e30, training__final_learning_rate=1e29), False
    )
    with pytest.raises(InputError, match="not finite"):
        train_with_ray(config, tiny_dataset, tmp_path / "run", 1, Progress("train", 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_full_disk_is_one_sentence_and_the_run_goes_on_later(ray_session, tiny_dataset, tmp_path, workers):
    """A real file system with room for a run's first files and no more; every worker hears of it, and none waits."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=32k tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system needs root")
    run = mount / "run"
    try:
        config = prepare_run(run, tiny_dataset, config_with(architecture__width=64, training__trackers=[]), False)

        def go():
            return train_with_ray(config, tiny_dataset, run, workers, Progress("", 1)) if workers else train(config, tiny_dataset, run)

        with pytest.raises(InputError, match="No space left on device"):
            go()
        os.system(f"mount -o remount,size=8m {mount}")
        assert go()["epochs"] == 3
    finally:
        os.system(f"umount -l {mount}")  # lazily: a Ray worker may still hold a file


def test_workers_share_the_cpus_of_the_cluster():
    def nodes(*cpus):
        return [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cpus]

    assert [cpus_per_worker(nodes(2), workers) for workers in (1, 2)] == [2, 1]
    assert cpus_per_worker(nodes(8, 8), 2) == 8 and cpus_per_worker(nodes(8, 4), 3) == 4
    assert cpus_per_worker([*nodes(2), {"Alive": False, "Resources": {"CPU": 64.0}}], 1) == 2


def test_more_workers_than_the_cluster_has_is_refused(ray_session, tiny_dataset, tmp_path):
    config = prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    with pytest.raises(InputError, match="--workers is 64"):
        train_with_ray(config, tiny_dataset, tmp_path / "run", 64, Progress("train", 3))


def test_killed_ray_worker_is_replaced_and_the_run_ends_with_the_same_weights(ray_session, tiny_dataset, tmp_path):
    config = config_with(training__epochs=30)
    train_in(tmp_path / "quiet", tiny_dataset, config)
    run = tmp_path / "killed"
    prepared = prepare_run(run, tiny_dataset, config, False)
    killed = []

    def kill_one_worker():
        while not (run / "history.jsonl").exists() or len(history(run)) < 3:
            time.sleep(0.02)
        workers = train_worker_pids(ray_session)
        os.kill(workers[0], signal.SIGKILL)
        killed.append(workers[0])

    killer = threading.Thread(target=kill_one_worker)
    killer.start()
    result = train_with_ray(prepared, tiny_dataset, run, 1, Progress("train", 30))
    killer.join()
    assert killed and result["epochs"] == 30
    assert weights(run) == weights(tmp_path / "quiet")


def train_worker_pids(ray):
    """Processes that run the training loop, children of this very Ray session's raylet."""
    session = ray._private.worker._global_node.get_session_dir_path()

    def command(pid):
        return (Path("/proc") / pid / "cmdline").read_text(errors="replace")

    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # processes come and go
            parent = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[1]
            if "RayTrainWorker" in command(pid) and session in command(parent):
                found.append(int(pid))
    return found
