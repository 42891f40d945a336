"""What a sweep minimises: figures of the best model of a run, on the validation rows of its dataset."""

import math

import numpy as np

from ...architectures import load_model
from ...physics import InputError
from ...platform.config import Config
from ...platform.data.datasets import read_split
from ...platform.data.manifest import read_config, read_manifest
from ...platform.evaluation.metrics import measure
from ...platform.evaluation.predictions import predict
from ...platform.evaluation.problems import read_problems
from ...platform.storage import Location
from ...platform.training.run_folder import MODEL_FOLDER, History

VALIDATION_LOSS = ("validation_loss",)  # alone, it needs no measurement: training has it
_TIMINGS = 3  # of which the fastest counts, since other trials run beside


def measure_run(run: Location, dataset: Location, config: Config, objectives: tuple[str, ...]) -> list[float]:
    """The objectives of a run so far, in order.

    Raises
    ------
    InputError
        Where one of them is not finite.
    """
    history = History(run).read()
    figures = {
        "validation_loss": min(line["validation_loss"] for line in history),
        "training_seconds": sum(line["seconds"] for line in history),
    }
    if not figures.keys() >= set(objectives):
        figures |= _measure_model(run, dataset, config)
    wrong = [name for name in objectives if not math.isfinite(figures[name])]
    if wrong:
        raise InputError(f"the {wrong[0]} of the model is not finite")
    return [float(figures[name]) for name in objectives]


def _measure_model(run: Location, dataset: Location, config: Config) -> dict[str, float]:
    model, settings = load_model(run / MODEL_FOLDER), config.training
    split = read_split(dataset, "val", settings.val_rows, start=settings.val_start)
    problems = read_problems(split, read_config(read_manifest(dataset)))
    predictions = [predict(model, problems, config.evaluation.batch_size) for _ in range(_TIMINGS)]
    metrics = measure(problems, predictions[0].q, predictions[0].p)
    return {
        "median_loss": float(np.median(metrics["total_loss"])),
        "energy_drift": float(np.median(metrics["energy_drift"])),
        "seconds_per_trajectory": min(predicted.seconds_each for predicted in predictions),
        "num_parameters": float(sum(parameter.numel() for parameter in model.parameters())),
    }
