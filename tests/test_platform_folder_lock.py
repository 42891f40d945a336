"""One command at a time in a folder, with real processes; file systems without locks are imitated."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.platform import folder_lock
from neural_hamilton.platform.folder_lock import LOCK_FILE, hold_folder

TINY = ["--set", "architecture.width=8", "--set", "training.epochs=2"]
HOLD = """
import pathlib, sys, time
from neural_hamilton.platform.folder_lock import hold_folder
with hold_folder(pathlib.Path(sys.argv[1]), "--out"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder():
    """Hold a folder from a process of its own, which is returned."""
    processes = []

    def hold(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def commands(dataset, out):
    """Every command that writes a folder, which is `out`."""
    measure = ["--dataset", dataset, "--out", out]
    return {
        "generate": ["generate", out, "--train", 4, "--local"],
        "import": ["import", "rows.npz", out],
        "train": ["train", dataset, "--arch", "deeponet", "--out", out, "--local", "--resume", *TINY],
        "sweep": ["sweep", dataset, "--arch", "deeponet", "--trials", 1, "--out", out, *TINY],
        "scale": ["scale", dataset, "--arch", "deeponet", "--sizes", 32, "--out", out, "--local", *TINY],
        "reproduce": ["reproduce", "paper", "--config", "shipped-orbitnet", "--out", out],
        "evaluate": ["evaluate", "serve/models/orbitnet", *measure],
        "compare": ["compare", "serve/models/orbitnet", "serve/models/mambonet", *measure],
    }


@pytest.mark.parametrize(
    "name",
    [
        "generate",
        "import",
        "train",
        "evaluate",
        "compare",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sweep", "scale", "reproduce")),
    ],
)
def test_a_folder_in_use_is_refused_with_its_holder(holder, run_cli, tiny_dataset, tmp_path, name):
    process = holder(tmp_path / "out")
    refused = run_cli(*commands(tiny_dataset, tmp_path / "out")[name])
    assert refused.returncode == 2 and f"is in use by process {process.pid} on " in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr
    assert os.listdir(tmp_path / "out") == [LOCK_FILE]


def test_a_killed_process_holds_nothing(holder, run_cli, tmp_path):
    process = holder(tmp_path / "out")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run_cli("generate", tmp_path / "out", "--train", 4, "--local")
    assert done.returncode == 0, done.stderr
    assert LOCK_FILE not in os.listdir(tmp_path / "out")


def start_and_stop(arguments, folder):
    """A command that is stopped as soon as it holds `folder`."""
    command = [sys.executable, "-m", "neural_hamilton.platform", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    lock = folder / LOCK_FILE
    while not (lock.exists() and lock.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None
    return process


def go_on(process):
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


def test_of_two_generations_at_once_one_is_refused_and_the_other_is_whole(run_cli, tmp_path):
    command = ["generate", tmp_path / "d", "--train", 500, "--local", "--set", "data.shard_rows=100"]
    first = start_and_stop(command, tmp_path / "d")
    second = run_cli(*command)
    go_on(first)
    assert second.returncode == 2 and f"in use by process {first.pid}" in second.stderr, second.stderr
    assert run_cli("inspect", tmp_path / "d").returncode == 0


def test_of_two_resumed_trainings_one_is_refused_and_the_history_is_whole(run_cli, tiny_dataset, tmp_path):
    command = ["train", tiny_dataset, "--arch", "deeponet", "--out", tmp_path / "run", "--local", "--resume", *TINY]
    first = start_and_stop(command, tmp_path / "run")
    second = run_cli(*command)
    go_on(first)
    assert second.returncode == 2 and f"in use by process {first.pid}" in second.stderr, second.stderr
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(monkeypatch, capfd, tmp_path, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock.fcntl, "flock", fail)
    with hold_folder(tmp_path / "out", "--out"):
        (tmp_path / "out" / "file").touch()
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1 and "has no locks" in warning and os.strerror(number) in warning and str(tmp_path / "out") in warning


def test_other_failures_of_locking_are_refused(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folder_lock.fcntl, "flock", fail)
    with pytest.raises(InputError, match="cannot be written: Input/output error"), hold_folder(tmp_path / "out", "--out"):
        pass


def test_nothing_remains_where_nothing_was_written(tmp_path):
    with hold_folder(tmp_path / "new" / "folders", "--out"):
        assert LOCK_FILE in os.listdir(tmp_path / "new" / "folders")
    assert os.listdir(tmp_path) == []
    (tmp_path / "old").mkdir()
    with hold_folder(tmp_path / "old", "--out"):
        pass
    assert os.listdir(tmp_path / "old") == []


def test_a_lock_file_that_was_replaced_is_not_the_lock(monkeypatch, tmp_path):
    """A process may open the file just before its holder removes it."""
    real, opened = folder_lock._is_at, []

    def removed_once(descriptor, path):
        if not opened:
            path.unlink()
        opened.append(descriptor)
        return real(descriptor, path)

    monkeypatch.setattr(folder_lock, "_is_at", removed_once)
    with hold_folder(tmp_path, "--out"):
        assert len(opened) == 2 and LOCK_FILE in os.listdir(tmp_path)
