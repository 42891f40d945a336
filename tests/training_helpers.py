"""Small training runs and what their folders hold, as several test modules need them."""

import json

from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.run_folder import prepare_run

TINY = {"architecture.name": "deeponet", "architecture.width": 16, "architecture.num_layers": 1, "architecture.num_channels": 8}


def config_with(**fields):
    network = {} if "architecture__name" in fields else TINY
    settings = {"training.epochs": 3, "training.batch_size": 10} | {key.replace("__", "."): value for key, value in fields.items()}
    return load_config(None, network | settings)


def train_in(run, dataset, config, resume=False, **options):
    return train(prepare_run(run, dataset, config, resume), dataset, run, **options)


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def figures(run):
    """What a run's history says that does not depend on how fast it went."""
    timed = {"seconds", "rows_per_second", "memory_bytes", "warning"}
    return [{key: value for key, value in line.items() if key not in timed} for line in history(run)]


def checkpoints(run):
    return sorted((run / "checkpoints").iterdir())


def last_checkpoint(run):
    return checkpoints(run)[-1]
