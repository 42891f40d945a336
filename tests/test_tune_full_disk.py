"""A disk that fills up under a sweep or a study, on a real file system: one sentence, and the same command goes on once there is room."""

import os
from contextlib import contextmanager

import pytest
from training_helpers import config_with

from neural_hamilton.physics.errors import StorageUnavailable, is_full_disk
from neural_hamilton.tune.scaling.scale import scale
from neural_hamilton.tune.sweeps.sweep import sweep
from neural_hamilton.tune.trials import FAILURE_FILE, attempt, read_failure

CONFIG = config_with(architecture__width=64, training__trackers=[], training__epochs=2).override(
    {"sweep.space": {"training.learning_rate": {"low": 1e-4, "high": 1e-2}}}
)


@contextmanager
def small_disk(tmp_path, size):
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size={size} tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield mount
    finally:
        os.system(f"umount -l {mount}")  # lazily: a Ray worker may still hold a file


# Too little for the claim, for the database of trials, for a model, and for the second.
@pytest.mark.parametrize("size", [pytest.param("8k", marks=pytest.mark.slow), "64k", pytest.param("180k", marks=pytest.mark.slow)])
def test_sweep(ray_session, tiny_dataset, tmp_path, capfd, size):
    with small_disk(tmp_path, size) as mount:
        with pytest.raises(StorageUnavailable, match=r"small/sweep.*disk is full; make room, and the same command goes on"):
            sweep(CONFIG, tiny_dataset, mount / "sweep", 2)
        written = "".join(capfd.readouterr())
        assert written.count("\n") < 5 and "Traceback" not in written
        os.system(f"mount -o remount,size=20m {mount}")
        result = sweep(CONFIG, tiny_dataset, mount / "sweep", 2)
        assert result["trials"] == 2 and result["states"]["failed"] == 0


@pytest.mark.parametrize(
    ("size", "local"), [("8k", True), ("40k", True), ("60k", True), pytest.param("60k", False, marks=pytest.mark.slow)]
)
def test_scale(ray_session, tiny_dataset, tmp_path, capfd, size, local):
    with small_disk(tmp_path, size) as mount:
        with pytest.raises(StorageUnavailable, match=r"small/study.*disk is full; make room, and the same command goes on"):
            scale(CONFIG, tiny_dataset, mount / "study", ["deeponet"], [8, 16], 1, local=local)
        written = "".join(capfd.readouterr())
        assert written.count("\n") < 5 and "Traceback" not in written
        os.system(f"mount -o remount,size=20m {mount}")
        result = scale(CONFIG, tiny_dataset, mount / "study", ["deeponet"], [8, 16], 1, local=local)
        assert len(result["cells"]) == 2 and all(cell["reason"] is None for cell in result["cells"])


def test_a_full_disk_is_no_failure_of_a_trial(tmp_path):
    def fill():
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("the library that wrote says something else") from error

    (tmp_path / "run").mkdir()
    with pytest.raises(StorageUnavailable, match="make room"):
        attempt(tmp_path / "run", fill)
    assert read_failure(tmp_path / "run") is None and not (tmp_path / "run" / FAILURE_FILE).exists()
    assert is_full_disk(ValueError("(sqlite3.OperationalError) database or disk is full")) and not is_full_disk(ValueError("full"))
