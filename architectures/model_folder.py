"""Model folders: `model.safetensors` (weights) and `model.json` (the card that describes them). Nothing is ever unpickled."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..physics.errors import InputError
from ..physics.files import Place, StoredPlace, as_place, write_file, write_json
from .card import CARD_FILE, MODEL_SCHEMA_VERSION, TrainedFor, parse_trained_for, read_card
from .examples import predict_examples
from .operator import Operator
from .registry import build_operator, parse_architecture

WEIGHTS_FILE = "model.safetensors"


def save_model(model: Operator, folder: Path | StoredPlace, trained_for: TrainedFor, provenance: dict[str, Any]) -> None:
    """Write a model folder.

    The card carries the checksum of the weights and is written last, so a reader never pairs one model's card with
    another's weights.

    Parameters
    ----------
    model
        The network; its type (float32 or float64) is kept.
    folder
        Made where it does not exist; a model in it is replaced.
    trained_for
        The system, ensemble and sensors of the training data.
    provenance
        Any JSON-able record of how the weights came to be.
    """
    assert trained_for.task == model.task, f"the network was built for {model.task}, not for {trained_for.task}"
    on_cpu = copy.deepcopy(model).cpu().eval()
    weights = save_tensors({name: tensor.detach().contiguous() for name, tensor in on_cpu.state_dict().items()})
    card = {
        "schema_version": MODEL_SCHEMA_VERSION,
        "architecture": model.config.model_dump(mode="json"),
        "trained_for": trained_for.model_dump(mode="json"),
        "normalisation": {"potential_mean": _plain(model.potential_mean), "potential_scale": _plain(model.potential_scale)},
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "example_predictions": predict_examples(on_cpu),
        "provenance": provenance,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / WEIGHTS_FILE, weights)
    write_json(folder / CARD_FILE, card)


def _plain(statistic: Tensor) -> float | list[float]:
    return float(statistic) if statistic.ndim == 0 else statistic.flatten().tolist()


def record_calibration(folder: Path, calibration: dict[str, Any]) -> None:
    """Write to a model's card how far its own scores can be trusted, in place of what was there.

    Raises InputError where there is no readable card, or the folder cannot be written.
    """
    card = read_card(folder)
    try:
        write_json(folder / CARD_FILE, card | {"calibration": calibration})
    except OSError as error:
        raise InputError(f"{folder / CARD_FILE} cannot be written: {error.strerror}") from None


def record_examples(folder: Path) -> None:
    """Write to a model's card what it predicts for the example problems, in place of what was there."""
    write_json(folder / CARD_FILE, read_card(folder) | {"example_predictions": predict_examples(load_model(folder))})


def load_model(folder: str | Place, device: str | torch.device = "cpu") -> Operator:
    """A network in evaluation mode, in the type it was saved in: `forward(fields, times, initial) -> OperatorOutput`.

    Raises
    ------
    InputError
        Where the folder is incomplete, of an unknown schema version, its weights do not match its card, or there is no such device.
    """
    folder = as_place(folder)
    card = read_card(folder)
    model = _build(card, folder / CARD_FILE)
    try:
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except OSError:
        raise InputError(f"model folder {str(folder)!r} has no readable {WEIGHTS_FILE}") from None
    if hashlib.sha256(weights).hexdigest() != card.get("weights_sha256"):
        raise InputError(f"{folder / WEIGHTS_FILE} does not match the checksum in {CARD_FILE}; the file is damaged or from another model")
    try:
        tensors = load_tensors(weights)
        model = model.to(tensors["potential_mean"].dtype)  # a float64 model stays one
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise InputError(f"{folder / WEIGHTS_FILE} does not fit its architecture: {error}") from None
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built for CUDA
        raise InputError(f"device is {str(device)!r}, which cannot be used here: {str(error).splitlines()[0]}") from None


def _build(card: dict[str, Any], path: Place) -> Operator:
    architecture = card.get("architecture")
    if not isinstance(architecture, dict):
        raise InputError(f"{path} does not describe an architecture")
    task = parse_trained_for(card, path).task
    try:
        return build_operator(parse_architecture(architecture), task)
    except (ValidationError, InputError) as error:
        raise InputError(f"{path} does not describe an architecture of this version: {error}") from None
