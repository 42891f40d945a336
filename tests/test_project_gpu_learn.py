"""The part `learn` of `python -m benchmarks.gpu`: it continues, keeps whole checkpoints, and leaves files that fit."""

import json
import shutil
import time

import pytest
import torch
from gpu_helpers import LIMIT, bench_on_cpu, check_what_leaves_the_machine

from benchmarks.gpu import learn
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.networks import DIRECT, network_config
from neural_hamilton.architectures import build_operator, load_model
from neural_hamilton.platform.training.checkpoints import save_checkpoint
from neural_hamilton.platform.training.optimizers import Optimizer
from neural_hamilton.platform.training.trained_for import task_of


def learnt(out):
    (cell,) = learn.cells(bench_on_cpu(out))
    return cell.measure()


def test_learning_continues_where_it_stopped(tmp_path, monkeypatch, capsys):
    """On another machine: from the checkpoint in the repository, into an empty folder."""
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    first = learnt(tmp_path / "first")
    assert (first["epochs_before"], first["epochs"]) == (0, 2)
    check_what_leaves_the_machine(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "repository")
    second = learnt(tmp_path / "second")
    assert (second["epochs_before"], second["epochs"]) == (2, 4)
    check_what_leaves_the_machine(tmp_path / "second")
    history = [json.loads(line) for line in (tmp_path / "second" / "learn" / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2, 3, 4]
    assert history[2]["learning_rate"] > history[1]["learning_rate"], "the longer schedule is not at its end yet"
    assert "epoch 4 of 4: validation loss" in capsys.readouterr().out
    card = json.loads((tmp_path / "second" / "learn" / "model" / "model.json").read_text())
    assert card["provenance"]["metrics"]["validation_loss"] == second["validation_loss"]
    assert load_model(tmp_path / "second" / "learn" / "model").config.name == "mambonet"
    third = learnt(tmp_path / "second")  # what is in DIR is newer than what is in the repository
    assert (third["epochs_before"], third["epochs"]) == (4, 6)
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "second").rglob("*.[yj]*"))


def test_the_learning_rate_ends_with_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    small = network_config(DIRECT, True, {})
    monkeypatch.setattr(learn, "network_config", lambda *_: small)
    deadline = time.time() + 12
    (cell,) = learn.cells(Bench(torch.device("cpu"), False, deadline, tmp_path / "out"))
    figures = cell.measure()
    assert time.time() < deadline + 2 and figures["epochs"] > 10
    last = json.loads((tmp_path / "out" / "learn" / "history.jsonl").read_text().splitlines()[-1])
    if figures["finished"]:
        assert last["learning_rate"] < 0.1 * small.training.learning_rate
    else:  # the machine became slower than it was at first
        assert time.time() > deadline - 1


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    """Whatever write ends the process: what is left can be continued."""
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    write = learn.write_file

    class Killed(BaseException):
        pass

    for last in range(10):  # two epochs of five files
        out, writes = tmp_path / f"out-{last}", iter(range(100))

        def some(path, content, last=last, out=out, writes=writes):
            if path.is_relative_to(out) and next(writes) == last:
                (path.parent / f".{path.name}.1.partial").write_bytes(content[:10])
                assert sum(file.is_file() for file in out.rglob("*")) <= 6  # and gpu.json, and one more that may be on its way
                raise Killed
            write(path, content)

        monkeypatch.setattr(learn, "write_file", some)
        with pytest.raises(Killed):
            learnt(out)
        monkeypatch.setattr(learn, "write_file", write)
        assert learn.epochs_of(out / "learn") == (1 if last >= 5 else 0)
        assert learnt(out)["epochs_before"] == (1 if last >= 5 else 0)


@pytest.mark.parametrize("damage", ["checkpoint", "config.yaml", "history.jsonl", "missing config", "foreign file", "other network"])
def test_a_damaged_source_is_passed_over(tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    learnt(tmp_path / "repository")
    shutil.copytree(tmp_path / "repository", tmp_path / "out")
    learnt(tmp_path / "out")
    folder = tmp_path / "out" / "learn"
    (checkpoint,) = (folder / "checkpoints").iterdir()
    if damage == "checkpoint":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif damage in ("config.yaml", "history.jsonl"):
        (folder / damage).write_bytes((folder / damage).read_bytes()[:100])
    elif damage == "missing config":
        (folder / "config.yaml").unlink()
    elif damage == "other network":
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("d_feedforward: 16", "d_feedforward: 32"))
    else:
        (folder / "checkpoints" / "epoch-best.safetensors").write_bytes(b"")
    assert learnt(tmp_path / "out")["epochs_before"] == (4 if damage == "foreign file" else 2)
    assert ("is not continued: " in capsys.readouterr().out) is (damage != "foreign file")
    check_what_leaves_the_machine(tmp_path / "out")


def test_a_file_too_large_to_leave_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "RESULTS", tmp_path / "repository")
    monkeypatch.setattr(learn, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"at most 1000 can leave the machine"):
        learnt(tmp_path / "out")


def test_the_checkpoint_of_what_learn_trains_can_leave_the_machine(tmp_path):
    config = network_config(DIRECT, False, {})
    model = build_operator(config.architecture, task_of(config.data))
    optimizer = Optimizer(model, config.training)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(1e-3)
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"epoch": 1, "learner": {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": None}})
    assert path.stat().st_size <= LIMIT
    assert config.training.ema_decay is None  # which would be another network in it
