"""The networks and the rows that the parts measure with."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neural_hamilton.architectures import TrainedFor, read_card
from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.platform.config.data import DataConfig
from neural_hamilton.platform.data.datasets import TrainingRows
from neural_hamilton.platform.data.shards import make_rows
from neural_hamilton.platform.training.batches import Batch
from neural_hamilton.platform.training.trained_for import data_like
from neural_hamilton.serve.shipped import SHIPPED_MODELS

DIRECT = "mambonet-direct"  # the shipped configuration that `learn` trains
NETWORKS = (DIRECT, "orbitnet", "deeponet", "traonet", "varonet", "fno")

_TINY_SIZES = {
    "width": 16, "num_layers": 1, "num_channels": 8, "num_frequencies": 4, "num_heads": 2, "d_model": 8, "num_mamba_layers": 2,
    "d_state": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "d_feedforward": 16, "hidden_size": 8, "latent_size": 4,
    "num_modes": 3, "num_fourier_layers": 1, "num_shapes": 2,
}  # fmt: skip
_TINY_DATA = {"data.sensors": 12, "data.times": 10, "data.train": 64, "data.val": 16, "data.test": 16}


def network_config(name: str, tiny: bool, overrides: dict[str, Any]) -> Config:
    """The configuration of one of `NETWORKS`: the default preset, or the one that `learn` trains; or the smallest of its kind.

    Without a CUDA graph, unless `overrides` asks for it: not every device has them.
    """
    source, values = (DIRECT, {}) if name == DIRECT else (None, {"architecture.name": name})
    full = load_config(source, values)
    values |= {"training.cuda_graph": False}
    if tiny:
        known = {key: size for key, size in _TINY_SIZES.items() if key in full.dump()["architecture"]}
        values |= _TINY_DATA | {f"architecture.{key}": size for key, size in known.items()}
        values |= {"training.batch_size": 16}
    return load_config(source, values | overrides)


def shipped_models() -> dict[str, Path]:
    """The folders of the models in the repository, by name."""
    folders = (path.parent for path in sorted(SHIPPED_MODELS.glob("*/model.json")))
    # FieldNet integrates on the CPU wherever its tensors are: there is nothing of a GPU to measure.
    return {folder.name: folder for folder in folders if read_card(folder)["architecture"]["name"] != "fieldnet"}


def data_of(folder: Path) -> DataConfig:
    """Problems like those a model was trained on. Raises InputError where there is no readable card."""
    return data_like(TrainedFor.model_validate(read_card(folder)["trained_for"]))


@cache
def draw(data: DataConfig, num_rows: int) -> Batch:
    """The first test rows of the stream that `data` describes, on the CPU."""
    table, _ = make_rows(data, "test", np.arange(num_rows))
    return Batch.from_rows(TrainingRows.from_table(table, data.get_system()))


def repeat(data: DataConfig, num_rows: int, device: torch.device, distinct: int = 1024) -> Batch:
    """`num_rows` rows on a device: at most `distinct` ones, over and over."""
    rows = draw(data, min(num_rows, distinct))
    return rows.take(torch.arange(num_rows) % len(rows)).to(device)
