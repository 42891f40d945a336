"""Training on the device that `train` chooses: a GPU where there is one (`pytest -m gpu`), else the CPU."""

import json

import pytest
import torch

from neural_hamilton.architectures import load_model
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.datasets import list_files, read_rows
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.machine import default_device
from neural_hamilton.platform.training.batches import Batch
from neural_hamilton.platform.training.learner import validate
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.process_group import Worker
from neural_hamilton.platform.training.run_folder import prepare_run

pytestmark = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA device is needed")

SIZES = {
    "width": 16, "num_layers": 1, "num_channels": 8, "num_frequencies": 4, "num_heads": 2, "d_model": 16, "num_mamba_layers": 2,
    "d_state": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "d_feedforward": 16, "hidden_size": 8, "latent_size": 4,
    "num_modes": 3, "num_fourier_layers": 1,
}  # fmt: skip
DATA = {"data.train": 64, "data.val": 16, "data.sensors": 20, "data.times": 20}
TRAINING = {"training.epochs": 4, "training.batch_size": 16, "training.learning_rate": 3e-3, "training.trackers": []}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices") / "dataset"
    generate(folder, load_config(None, DATA).data, local=True)
    return folder


def config_of(name, **overrides):
    known = load_config(None, {"architecture.name": name}).dump()["architecture"]
    sizes = {f"architecture.{key}": value for key, value in SIZES.items() if key in known}
    return load_config(None, {"architecture.name": name} | sizes | TRAINING | {key.replace("__", "."): v for key, v in overrides.items()})


def run(dataset, folder, config, **options):
    return train(prepare_run(folder, dataset, config, resume=True), dataset, folder, **options)


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deeponet", {}),
        ("traonet", {}),
        ("varonet", {}),
        ("mambonet", {}),
        ("fno", {}),
        ("mambonet", {"training__optimizer": "soap", "training__endless": True}),
        ("mambonet", {"training__optimizer": "muon"}),
        ("traonet", {"training__precision": "bf16", "training__float32_epochs": 2}),
        pytest.param("mambonet", {"training__precision": "bf16"}, marks=needs_cuda),  # the interpreter is slow
        pytest.param("mambonet", {"training__precision": "tf32"}, marks=needs_cuda),
        pytest.param("mambonet", {"training__compile": True}, marks=needs_cuda),  # with CUDA graphs
        *(
            pytest.param(name, {"training__cuda_graph": True, **options}, marks=needs_cuda)
            for name, options in (("mambonet", {"training__optimizer": "soap"}), ("varonet", {}), ("fno", {"training__ema_decay": 0.5}))
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(str(each) for each in value.values()) or "default",
)
def test_a_network_trained_here_predicts_the_same_on_a_cpu(dataset, tmp_path, name, options):
    result = run(dataset, tmp_path / "run", config_of(name, **options))
    losses = [line["validation_loss"] for line in history(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert result["device"] == default_device().type
    model = load_model(tmp_path / "run" / "model")
    rows = Batch.from_rows(read_rows(list_files(dataset, "val")))
    assert validate(model, rows, 16, Worker(0, 1)) == pytest.approx(result["validation_loss"], rel=1e-3)


def test_a_run_continues_on_the_device_where_it_stopped(dataset, tmp_path):
    config = config_of("mambonet", training__optimizer="soap")
    run(dataset, tmp_path / "whole", config)

    class Interrupted(Exception):
        pass

    def interrupt(figures):
        if figures["epoch"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(dataset, tmp_path / "cut", config, report=interrupt)
    continued = []
    run(dataset, tmp_path / "cut", config, report=lambda figures: continued.append(figures["epoch"]))
    assert continued == [3, 4]
    whole, cut = history(tmp_path / "whole"), history(tmp_path / "cut")
    for one, other in zip(whole, cut, strict=True):
        # The same bits on a CPU (test_platform_training.py); on a GPU attention adds its gradients up in any order.
        assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)


@needs_cuda
@pytest.mark.parametrize("optimizer", ["soap", "adamw"])
def test_a_recorded_step_is_the_step(dataset, tmp_path, optimizer):
    """With batches of 16 but for the last of an epoch, which is shorter and is not recorded."""
    for name, recorded in (("recorded", True), ("eager", False)):
        options = {"training__train_rows": 56, "training__ema_decay": 0.9, "training__sobolev_weight": 0.01}
        run(dataset, tmp_path / name, config_of("mambonet", training__optimizer=optimizer, training__cuda_graph=recorded, **options))
    for one, other in zip(history(tmp_path / "recorded"), history(tmp_path / "eager"), strict=True):
        for figure in ("validation_loss", "train_loss", "gradient_norm"):
            assert one[figure] == pytest.approx(other[figure], rel=1e-3)
