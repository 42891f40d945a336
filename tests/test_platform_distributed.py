"""Training under Ray Train: real workers, and a disk that is full."""

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from training_helpers import config_with, history, train_in

from neural_hamilton.physics import InputError
from neural_hamilton.physics.errors import StorageUnavailable
from neural_hamilton.platform.progress import Progress
from neural_hamilton.platform.training import distributed
from neural_hamilton.platform.training.distributed import cpus_per_worker, train_with_ray, worker_resources
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.run_folder import prepare_run


def test_two_workers_stop_at_the_same_epoch_go_on_and_agree_with_this_process(ray_session, tiny_dataset, tmp_path):
    config = config_with(training__batch_size=7)  # 64 rows in sevens: the last batch has one row
    train_in(tmp_path / "here", tiny_dataset, config)
    run = tmp_path / "there"
    prepare_run(run, tiny_dataset, config, False)
    stopped = train_with_ray(config, tiny_dataset, run, 2, Progress("train", 3), deadline=time.time() - 1.0)
    assert not stopped["finished"] and stopped["epochs"] == 1
    result = train_with_ray(config, tiny_dataset, run, 2, Progress("train", 3))
    assert result["finished"] and result["epochs"] == 3
    losses = [[line["validation_loss"] for line in history(folder)] for folder in (run, tmp_path / "here")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_full_disk_is_one_sentence_and_the_run_goes_on_later(ray_session, tiny_dataset, tmp_path, workers):
    """A real file system with room for a run's first files and no more; every worker hears of it, and none waits."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=32k tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system needs root")
    run = mount / "run"
    try:
        config = prepare_run(run, tiny_dataset, config_with(architecture__width=64, training__trackers=[]), False)

        with pytest.raises(StorageUnavailable, match="No space left on device"):
            train_with_ray(config, tiny_dataset, run, workers, Progress("", 1)) if workers else train(config, tiny_dataset, run)
        os.system(f"mount -o remount,size=8m {mount}")
        assert train(config, tiny_dataset, run)["epochs"] == 3
    finally:
        os.system(f"umount -l {mount}")  # lazily: a Ray worker may still hold a file


def test_a_controller_that_never_began_is_started_again_and_one_that_died_is_one_sentence(monkeypatch, tiny_dataset, ray_session, tmp_path):
    """Stands in for Ray Train alone: a real controller that dies leaves Ray waiting for the CPUs it had reserved."""
    config = prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    deaths = []

    def fit(trainer):
        if deaths:
            raise RayActorError(error_msg=deaths.pop(0))
        return SimpleNamespace(return_value={"epochs": 3})

    monkeypatch.setattr(TorchTrainer, "fit", fit)
    deaths += ["The actor never ran - it was cancelled before it started running."] * 2
    assert train_with_ray(config, tiny_dataset, tmp_path / "run", 1, Progress("", 1)) == {"epochs": 3}
    deaths += ["Worker unexpectedly exits with a connection error."]
    with pytest.raises(InputError, match=r"the controller of Ray Train died: Worker unexpectedly exits.*keeps the last whole epoch"):
        train_with_ray(config, tiny_dataset, tmp_path / "run", 1, Progress("", 1))


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


def test_workers_have_what_is_given_and_an_equal_part_of_the_rest(ray_session, monkeypatch):
    assert worker_resources(1) == {"CPU": 2, "GPU": 0} and worker_resources(2, gpus=0) == {"CPU": 1, "GPU": 0}
    assert worker_resources(2, cpus=1) == {"CPU": 1, "GPU": 0}
    for asked in ({"cpus": 3}, {"gpus": 1}):
        with pytest.raises(InputError, match=r"this machine has 2 and 0: ask for less, or set RAY_ADDRESS to a cluster"):
            worker_resources(1, **asked)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # nodes may be started
    assert worker_resources(1, cpus=64) == {"CPU": 64, "GPU": 0} and worker_resources(4, gpus=1) == {"CPU": 1, "GPU": 1}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("[Rank 0]\n[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.5]:5010", True),
        ("[third_party/gloo/gloo/transport/tcp/pair.cc:152] timed out connecting: SO_ERROR", True),
        ("A worker health check failed.\nWorker info: Worker(actor=..., The actor died unexpectedly before finishing this task.", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("the loss is nan", False),
        ("cannot connect to the tracker: Connection reset by peer", False),
    ],
)
def test_a_loss_is_told_from_an_error_of_a_workers_own(failure, expected):
    assert distributed._is_of_a_loss(RuntimeError(failure)) is expected
