"""Training in one process: exact resumption, refusals, records, and a driver that is killed."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from training_helpers import TINY, checkpoints, config_with, figures, history, last_checkpoint, train_in, weights

from neural_hamilton.architectures import Task, build_operator, load_model, parse_architecture, read_card, save_model
from neural_hamilton.architectures.selective_scan import use_backend
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.training import learner, loop
from neural_hamilton.platform.training.batches import Batch
from neural_hamilton.platform.training.checkpoints import load_checkpoint, save_checkpoint
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.objectives import total_losses
from neural_hamilton.platform.training.run_folder import prepare_run
from neural_hamilton.platform.training.trained_for import trained_for


def test_loss_falls_and_the_run_folder_is_complete(tiny_dataset, tmp_path):
    result = train_in(tmp_path / "run", tiny_dataset, config_with(training__epochs=30, training__learning_rate=5e-3))
    lines = history(tmp_path / "run")
    assert len(lines) == 30 and lines[-1]["train_loss"] < 0.5 * lines[0]["train_loss"]
    assert result["validation_loss"] == min(line["validation_loss"] for line in lines)
    contents = {"config.yaml", "dataset.json", "history.jsonl", "result.json", "checkpoints", "model", "tensorboard"}
    assert contents == set(os.listdir(tmp_path / "run"))
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert card["provenance"]["dataset_hash"] == json.loads((tiny_dataset / "manifest.json").read_text())["dataset_hash"]
    assert card["provenance"]["metrics"]["validation_loss"] == result["validation_loss"]
    assert load_model(tmp_path / "run" / "model").task.sensors == (20,)
    for record in (*lines, result):
        assert record["device"] in ("cpu", "cuda") and record["scan_backend"] is None  # of a DeepONet


def test_the_log_names_the_scan_backend(tiny_dataset, tmp_path):
    sizes = {"d_model": 8, "num_heads": 2, "num_mamba_layers": 1, "num_decoder_layers": 1, "d_feedforward": 8}
    fields = {"training.epochs": 1, "architecture.name": "mambonet"} | {f"architecture.{key}": value for key, value in sizes.items()}
    config = load_config(None, fields)
    with use_backend("reference"):
        result = train_in(tmp_path / "run", tiny_dataset, config)
    assert result["scan_backend"] == history(tmp_path / "run")[0]["scan_backend"] == "reference"


VARONET = {
    "architecture__name": "varonet", "architecture__hidden_size": 8, "architecture__num_encoder_layers": 1,
    "architecture__num_decoder_layers": 1, "architecture__latent_size": 4, "training__kl_warmup_epochs": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"training__ema_decay": 0.9, "training__warmup_epochs": 1.5, "training__schedule": "warmup-stable-decay"},
        {"training__optimizer": "muon"},
        {"training__optimizer": "soap", "training__learning_rate": 1e-2},
        {"training__optimizer": "splus", "training__learning_rate": 0.1},
        {"training__optimizer": "schedule-free", "training__schedule": "constant"},
        {"training__endless": True, "training__precision": "bf16", "training__float32_epochs": 2},
        {"training__resident_gib": 1e-5, "training__loss": "log-cosh", "training__sobolev_weight": 0.01},
        VARONET,
    ],
    ids=lambda fields: ",".join(str(value) for value in fields.values()) or "default",
)
def test_interrupted_and_resumed_ends_with_the_same_bits(tiny_dataset, tmp_path, fields):
    """Whatever else a run carries along: averages, preconditioners, what networks draw, where streamed rows are."""
    config = config_with(training__epochs=5, **fields)
    train_in(tmp_path / "whole", tiny_dataset, config)

    class Interrupted(Exception):
        pass

    def interrupt(record):
        if record["epoch"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_in(tmp_path / "cut", tiny_dataset, config, report=interrupt)
    train_in(tmp_path / "cut", tiny_dataset, config, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert last_checkpoint(tmp_path / "cut").read_bytes() == last_checkpoint(tmp_path / "whole").read_bytes()
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


def test_finished_run_resumes_to_the_same_result(tiny_dataset, tmp_path):
    first = train_in(tmp_path / "run", tiny_dataset, config_with())
    before = weights(tmp_path / "run")
    assert train_in(tmp_path / "run", tiny_dataset, config_with(), resume=True) == first
    assert weights(tmp_path / "run") == before


def test_only_the_first_rows_are_used_when_asked(tiny_dataset, tmp_path):
    assert train_in(tmp_path / "run", tiny_dataset, config_with(training__train_rows=30))["train_rows"] == 30


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"training__train_rows": 65}, "has 64 training rows"),
        ({"data__noise": 0.1}, r"data\.noise is 0\.1 and 0\.0 in the dataset"),
        ({"data__ensemble__name": "phase-space"}, r"data\.ensemble\.name is 'phase-space' and 'paper' in the dataset"),
    ],
)
def test_impossible_configuration_is_refused_before_anything_is_written(tiny_dataset, tmp_path, fields, words):
    base = {} if "architecture__name" in fields else TINY
    config = load_config(None, base | {k.replace("__", "."): v for k, v in fields.items()})
    with pytest.raises(InputError, match=words):
        prepare_run(tmp_path / "run", tiny_dataset, config, False)
    assert not (tmp_path / "run").exists()


def test_run_folder_in_use_is_refused(tiny_dataset, tmp_path):
    prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    with pytest.raises(InputError, match="--resume"):
        prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    changed = config_with(training__epochs=2, training__batch_size=20)
    with pytest.raises(InputError, match=r"training\.epochs was 3, is 2; training\.batch_size was 10, is 20"):
        prepare_run(tmp_path / "run", tiny_dataset, changed, True)


def test_a_finished_run_is_extended_to_the_bits_of_a_longer_one(tiny_dataset, tmp_path):
    """With a rate that does not depend on the number of epochs; also one that patience has ended."""
    steady = {"training__schedule": "constant"}
    whole = train_in(tmp_path / "whole", tiny_dataset, config_with(training__epochs=4, **steady))
    assert train_in(tmp_path / "run", tiny_dataset, config_with(training__epochs=2, **steady))["finished"]
    extended = train_in(tmp_path / "run", tiny_dataset, config_with(training__epochs=4, **steady), resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole") and figures(tmp_path / "run") == figures(tmp_path / "whole")
    assert extended["epochs"] == whole["epochs"] == 4 and extended["warnings"] == []

    idle = steady | {"training__learning_rate": 1e-30, "training__epochs": 8}
    assert train_in(tmp_path / "patient", tiny_dataset, config_with(training__patience=1, **idle))["epochs"] < 8
    longer = train_in(tmp_path / "patient", tiny_dataset, config_with(**idle), resume=True)
    assert longer["epochs"] == 8 and longer["finished"]


def test_a_run_extended_under_another_schedule_tells_so(tiny_dataset, tmp_path):
    train_in(tmp_path / "run", tiny_dataset, config_with(training__epochs=2))
    for epochs in (4, 5):
        result = train_in(tmp_path / "run", tiny_dataset, config_with(training__epochs=epochs), resume=True)
        assert result["epochs"] == epochs and result["warnings"][0].startswith("epochs up to 2 have the learning rates")
    assert len(result["warnings"]) == 2
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 5
    assert read_card(tmp_path / "run" / "model")["provenance"]["extended"]


def test_a_run_goes_on_with_other_trackers_and_checkpoints(tiny_dataset, tmp_path):
    train_in(tmp_path / "whole", tiny_dataset, config_with())
    train_in(tmp_path / "run", tiny_dataset, config_with(), deadline=1.0)
    result = train_in(tmp_path / "run", tiny_dataset, config_with(training__trackers=[], training__keep_checkpoints=1), resume=True)
    assert result["finished"] and weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert load_config(tmp_path / "run" / "config.yaml").training.keep_checkpoints == 1


def test_dataset_changed_since_training_began_is_refused(tiny_dataset, tmp_path):
    """One made anew under the same configuration, and one whose file was changed behind its manifest's back."""
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    train_in(tmp_path / "run", dataset, config_with())
    manifest = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps(manifest | {"dataset_hash": "0" * 64}))
    with pytest.raises(InputError, match=rf"hash was {manifest['dataset_hash'][:16]}, is 0000000000000000"):
        prepare_run(tmp_path / "run", dataset, config_with(), True)
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    victim = dataset / manifest["files"][0]["file"]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(InputError, match=rf"{victim.name} is damaged or replaced"):
        train_in(tmp_path / "run", dataset, config_with(), resume=True)


@pytest.mark.parametrize("optimizer", ["soap", "splus"])
def test_a_gradient_that_is_not_finite_and_breaks_the_optimizer_is_one_sentence(tiny_dataset, tmp_path, monkeypatch, optimizer):
    def spoil(parameters, most):
        for parameter in parameters:
            parameter.grad.fill_(math.nan)
        return torch.tensor(math.nan)

    monkeypatch.setattr(learner.nn.utils, "clip_grad_norm_", spoil)
    with pytest.raises(InputError, match=r"not finite in epoch 1, step 1 of 7, where no weight has changed yet"):
        train_in(tmp_path / "run", tiny_dataset, config_with(**{"training.optimizer": optimizer}))


def test_folder_with_other_things_is_left_alone(tiny_dataset, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds no run"):
        prepare_run(tmp_path, tiny_dataset, config_with(), True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("at", [3, 10])
def test_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_last_good_checkpoint(tiny_dataset, tmp_path, monkeypatch, at):
    """A rate that ruins the weights in step `at`; the loss of the next one shows it. Seven steps an epoch."""
    sane, steps = learner.learning_rate_at, iter(range(1, 1000))
    monkeypatch.setattr(learner, "learning_rate_at", lambda *about: 1e30 if next(steps) == at + (at > 7) else sane(*about))
    epoch, step = divmod(at, 7)
    with pytest.raises(InputError, match=rf"not finite in epoch {epoch + 1}, step {step + 1} of 7"):
        train_in(tmp_path / "run", tiny_dataset, config_with())
    monkeypatch.undo()
    assert len(history(tmp_path / "run")) == epoch if epoch else not (tmp_path / "run" / "history.jsonl").exists()
    assert train_in(tmp_path / "run", tiny_dataset, config_with(), resume=True)["epochs"] == 3
    train_in(tmp_path / "quiet", tiny_dataset, config_with())
    assert last_checkpoint(tmp_path / "run").read_bytes() == last_checkpoint(tmp_path / "quiet").read_bytes()


def test_truncated_checkpoint_gives_way_to_the_one_before_and_the_run_says_so(tiny_dataset, tmp_path):
    config = config_with(training__epochs=5)
    train_in(tmp_path / "whole", tiny_dataset, config)
    train_in(tmp_path / "run", tiny_dataset, config)
    path = last_checkpoint(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:-10])
    result = train_in(tmp_path / "run", tiny_dataset, config, resume=True)
    assert result["warnings"] == ["epoch-00005.safetensors damaged; went on from the state after epoch 4"]
    assert history(tmp_path / "run")[-1]["warning"] == result["warnings"][0]
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")
    assert last_checkpoint(tmp_path / "run").read_bytes() == last_checkpoint(tmp_path / "whole").read_bytes()


def test_run_without_any_whole_checkpoint_is_refused(tiny_dataset, tmp_path):
    train_in(tmp_path / "run", tiny_dataset, config_with())
    for path in checkpoints(tmp_path / "run"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="every checkpoint in .* is damaged"):
        train_in(tmp_path / "run", tiny_dataset, config_with(), resume=True)


def test_the_latest_checkpoints_and_the_best_are_kept(tiny_dataset, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 1.0, *range(4, 13)])
    monkeypatch.setattr(loop, "validate", lambda *_: next(losses))
    config = config_with(training__epochs=12, training__keep_checkpoints=3)
    assert train_in(tmp_path / "run", tiny_dataset, config)["best_epoch"] == 3
    assert [path.stem for path in checkpoints(tmp_path / "run")] == [f"epoch-{epoch:05d}" for epoch in (3, 10, 11, 12)]


def test_weights_that_the_last_step_broke_are_not_recorded(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validate", lambda *_: math.nan)
    with pytest.raises(InputError, match="validation loss is not finite after epoch 1; .*lower training.learning_rate"):
        train_in(tmp_path / "run", tiny_dataset, config_with())
    assert not (tmp_path / "run" / "history.jsonl").exists()
    assert not (tmp_path / "run" / "model").exists()


def test_history_cut_short_by_a_crash_is_made_whole(tiny_dataset, tmp_path):
    """The line of an epoch is written before its checkpoint: one too many, and half of another, are what a crash can leave."""
    train_in(tmp_path / "run", tiny_dataset, config_with())
    whole = figures(tmp_path / "run")
    last_checkpoint(tmp_path / "run").unlink()
    with (tmp_path / "run" / "history.jsonl").open("a") as stream:
        stream.write('{"epoch": 4, "train_l')
    train_in(tmp_path / "run", tiny_dataset, config_with(), resume=True)
    assert figures(tmp_path / "run") == whole


@pytest.mark.parametrize("content", [None, "garbage", "[]"])
def test_run_without_a_readable_record_of_its_dataset_is_refused(tiny_dataset, tmp_path, content):
    """As one that an earlier version began."""
    train_in(tmp_path / "run", tiny_dataset, config_with())
    (tmp_path / "run" / "dataset.json").unlink()
    if content:
        (tmp_path / "run" / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json is missing or damaged"):
        prepare_run(tmp_path / "run", tiny_dataset, config_with(), True)


def test_damaged_history_is_named(tiny_dataset, tmp_path):
    train_in(tmp_path / "run", tiny_dataset, config_with())
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "history.jsonl").write_text("".join([lines[0], lines[1][:20] + "\n", lines[2]]))
    with pytest.raises(InputError, match=r"history\.jsonl is damaged"):
        train_in(tmp_path / "run", tiny_dataset, config_with(), resume=True)


def test_checkpoint_half_written_by_a_killed_process_is_cleared_away(tiny_dataset, tmp_path):
    config = prepare_run(tmp_path / "run", tiny_dataset, config_with(), False)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / ".epoch-00001.safetensors.1.partial").write_bytes(b"half")
    train(config, tiny_dataset, tmp_path / "run")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["epoch-00002.safetensors", "epoch-00003.safetensors"]


def test_patience_ends_a_run_and_resuming_does_not_begin_it_again(tiny_dataset, tmp_path):
    config = config_with(training__epochs=40, training__patience=3, training__learning_rate=1.0, training__schedule="constant")
    result = train_in(tmp_path / "run", tiny_dataset, config)
    assert result["stopped_early"] and result["epochs"] == result["best_epoch"] + 3 < 40
    assert train_in(tmp_path / "run", tiny_dataset, config, resume=True) == result


def test_average_of_weights_is_what_is_judged_and_saved(tiny_dataset, tmp_path):
    """The saved model's own loss is the recorded one, and its weights are not the ones being trained."""
    run = tmp_path / "run"
    train_in(run, tiny_dataset, config_with(training__ema_decay=0.9, training__epochs=4, training__learning_rate=5e-3))
    losses = total_losses(load_model(run / "model"), Batch.from_rows(read_split(tiny_dataset, "val")))
    assert float(losses.detach().double().mean()) == pytest.approx(history(run)[-1]["validation_loss"], rel=1e-5)
    learner = load_checkpoint(last_checkpoint(run), torch.device("cpu"))["learner"]
    saved = load_model(run / "model").state_dict()
    assert all(torch.equal(saved[key], value) for key, value in learner["average"]["model"].items())
    assert any(not torch.equal(saved[key], value) for key, value in learner["model"].items())


def test_trackers_hold_what_the_history_holds(tiny_dataset, tmp_path, monkeypatch):
    """TensorBoard's event files and a real MLflow store, read back; a resumed run continues its MLflow run."""
    mlflow = pytest.importorskip("mlflow")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format read below)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(None)
    config = config_with(training__trackers=["tensorboard", "mlflow"])
    run = tmp_path / "run"

    def interrupt(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in(run, tiny_dataset, config, report=interrupt)
    train_in(run, tiny_dataset, config, resume=True)
    recorded = {line["epoch"]: line["validation_loss"] for line in history(run)}
    events = [Event.FromString(data) for path in sorted((run / "tensorboard").iterdir()) for data in tfrecords(path.read_bytes())]
    shown = {e.step: v.simple_value for e in events for v in e.summary.value if v.tag == "validation_loss"}
    assert shown == pytest.approx(recorded, rel=1e-6)
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("neural-hamilton").experiment_id])
    assert {m.step: m.value for m in client.get_metric_history(found.info.run_id, "validation_loss")} == pytest.approx(recorded)
    assert found.data.params["training.epochs"] == "3" and found.info.status == "FINISHED"


def tfrecords(content):
    """The payloads of a TFRecord file: length, its checksum, payload, its checksum."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield content[12 : 12 + length]
        content = content[16 + length :]


def test_tracker_that_is_not_installed_is_refused_by_name(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"mlflow-skinny.*training\.trackers"):
        train_in(tmp_path / "run", tiny_dataset, config_with(training__trackers=["mlflow"]))


def test_reduced_precision_changes_the_bulk_and_not_the_last_epochs(tiny_dataset, tmp_path):
    fields = {"training__epochs": 4, "training__float32_epochs": 2}
    train_in(tmp_path / "float32", tiny_dataset, config_with(training__epochs=4))
    train_in(tmp_path / "bf16", tiny_dataset, config_with(training__precision="bf16", **fields))
    assert [line["precision"] for line in history(tmp_path / "bf16")] == ["bf16", "bf16", "float32", "float32"]
    losses = {name: history(tmp_path / name)[0]["train_loss"] for name in ("float32", "bf16")}
    assert losses["bf16"] != losses["float32"] and losses["bf16"] == pytest.approx(losses["float32"], rel=0.05)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device has TF32")
def test_precision_that_the_device_lacks_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="tf32.*CUDA"):
        train_in(tmp_path / "run", tiny_dataset, config_with(training__precision="tf32"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"training.ema_decay": 0.99, "training.optimizer": "splus"}, "averages the weights itself"),
        ({"training.optimizer": "schedule-free"}, "must be constant"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        load_config(None, fields)


@pytest.mark.slow
def test_compiled_network_trains_as_the_plain_one(tiny_dataset, tmp_path):
    for compiled in (False, True):
        train_in(tmp_path / str(compiled), tiny_dataset, config_with(training__compile=compiled))
    losses = [[line["validation_loss"] for line in history(tmp_path / str(compiled))] for compiled in (False, True)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_checkpoint_keeps_every_kind_of_state(tmp_path):
    model = build_operator(parse_architecture({"name": "deeponet", "width": 4}), Task((20,), ((0.0, 1.0),), 2.0))
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.1, "history": [{"a": 1.5, "b": None}]}
    save_checkpoint(tmp_path / "c.safetensors", state)
    loaded = load_checkpoint(tmp_path / "c.safetensors", torch.device("cpu"))
    assert loaded["history"] == state["history"] and loaded["epoch"] == 3 and loaded["best"] == 0.1
    assert list(loaded["optimizer"]["state"]) == list(state["optimizer"]["state"])
    for key, entry in state["optimizer"]["state"].items():
        assert all(torch.equal(value, loaded["optimizer"]["state"][key][name]) for name, value in entry.items())


def test_killed_driver_loses_at_most_the_current_epoch(tiny_dataset, tmp_path):
    config = config_with(training__epochs=150)
    train_in(tmp_path / "quiet", tiny_dataset, config)
    config.save(tmp_path / "config.yaml", ("architecture", "training"))
    run = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "neural_hamilton.platform",
        "train",
        tiny_dataset,
        "--local",
        "--resume",
        "--config",
        tmp_path / "config.yaml",
        "--out",
        run,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "history.jsonl").exists() or len(history(run)) < 5:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = len(history(run))
    assert done < 150
    assert subprocess.run(command, capture_output=True, check=True)
    assert len(history(run)) == 150 and weights(run) == weights(tmp_path / "quiet")


def test_a_run_may_start_from_the_weights_of_a_model(tiny_dataset, tmp_path):
    train_in(tmp_path / "first", tiny_dataset, config_with(training__epochs=5))
    model = load_model(tmp_path / "first" / "model")
    model.set_normalisation(0.25, 2.0)  # not that of the dataset: the weights belong to it
    save_model(model, tmp_path / "moved", trained_for(load_config(tmp_path / "first" / "config.yaml").data), {})
    frozen = {"training__learning_rate": 1e-12, "training__final_learning_rate": 1e-13, "training__weight_decay": 0.0}
    config = config_with(training__epochs=2, training__initial_model=str(tmp_path / "moved"), **frozen)
    train_in(tmp_path / "second", tiny_dataset, config)
    second = load_model(tmp_path / "second" / "model")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value, rtol=0, atol=1e-9)
    with pytest.raises(InputError, match=r"training\.initial_model is '.*moved', a network of other sizes"):
        train_in(tmp_path / "third", tiny_dataset, config.override({"architecture.width": 9}))
    (tmp_path / "empty").mkdir()
    for folder, words in (("nothing", "does not exist"), ("empty", "holds no model"), ("damaged", "cannot be read")):
        if folder == "damaged":
            shutil.copytree(tmp_path / "moved", tmp_path / folder)
            (tmp_path / folder / "model.safetensors").write_bytes(b"")
        with pytest.raises(InputError, match=rf"training\.initial_model is '.*{folder}', which {words}"):
            train_in(tmp_path / "third", tiny_dataset, config.override({"training.initial_model": str(tmp_path / folder)}))
    assert not (tmp_path / "third").exists()


def test_the_initial_model_may_be_a_run_and_is_found_from_anywhere(tiny_dataset, tmp_path, monkeypatch):
    train_in(tmp_path / "first", tiny_dataset, config_with(training__epochs=1))
    monkeypatch.chdir(tmp_path)
    config = config_with(training__epochs=2, training__initial_model="first")
    resolved = prepare_run(tmp_path / "second", tiny_dataset, config, False)
    assert resolved.training.initial_model == str(tmp_path / "first" / "model")
    monkeypatch.chdir("/")
    again = config.override({"training.initial_model": str(tmp_path / "first")})
    assert train_in(tmp_path / "second", tiny_dataset, again, resume=True)["epochs"] == 2


def test_a_checkpoint_of_another_version_is_refused_in_words(tiny_dataset, tmp_path):
    config = config_with(training__optimizer="soap", training__epochs=1)
    train_in(tmp_path / "run", tiny_dataset, config)
    state = load_checkpoint(last_checkpoint(tmp_path / "run"), torch.device("cpu"))
    assert set(state["learner"]["optimizer"][0]) == {"steps", "groups"}
    state["learner"]["optimizer"] = [{"state": {}, "param_groups": []}]  # as the optimizers of PyTorch have it
    save_checkpoint(last_checkpoint(tmp_path / "run"), state)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(InputError, match="does not fit this network and optimizer"):
        train_in(tmp_path / "run", tiny_dataset, config, resume=True)


def test_compile_without_a_compiler_is_one_sentence(run_cli, tiny_dataset, tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    train = ["train", tiny_dataset, "--arch", "deeponet", "--out", tmp_path / "run", "--local"]
    refused = run_cli(*train, "--set", "training.compile=true", "--set", "training.epochs=1", env={"PATH": str(empty), "CXX": "", "CC": ""})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert "training.compile" in refused.stderr and "CXX" in refused.stderr
