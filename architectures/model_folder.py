"""Model folders: `model.safetensors` (weights) and `model.json` (what they are). Nothing is ever unpickled."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from ..physics.errors import InputError
from .operator import Operator
from .registry import build_operator, get_architecture, parse_architecture

MODEL_SCHEMA_VERSION = 1
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "model.json"

_BEFORE = {"gate_time": None, "orbit": "none"}  # what the networks did whose cards do not have the field yet


def save_model(model: Operator, folder: Path, provenance: dict[str, Any]) -> None:
    """Write a model folder; `provenance` is any JSON-able record of how the weights came to be.

    The card carries the checksum of the weights and is renamed into place last, so a reader never
    pairs one model's card with another's weights.
    """
    weights = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    card = {
        "schema_version": MODEL_SCHEMA_VERSION,
        "architecture": model.config.model_dump(mode="json"),
        "normalisation": {"potential_mean": float(model.potential_mean), "potential_scale": float(model.potential_scale)},
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "provenance": provenance,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS_FILE, weights)
    _write(folder / CARD_FILE, _as_json(card))


def record_calibration(folder: Path, calibration: dict[str, Any]) -> None:
    """Write to a model's card what its answers' own scores are worth, in place of what was there.

    Raises InputError where there is no readable card, or the folder cannot be written.
    """
    card = read_card(folder)
    try:
        _write(folder / CARD_FILE, _as_json(card | {"calibration": calibration}))
    except OSError as error:
        raise InputError(f"{folder / CARD_FILE} cannot be written: {error.strerror}") from None


def _as_json(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, indent=2, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_card(folder: str | Path) -> dict[str, Any]:
    """The `model.json` of a model folder, its schema version checked.

    Raises InputError where there is no readable card or it is of another schema version.
    """
    path = Path(folder) / CARD_FILE
    try:
        card = json.loads(path.read_text())
    except OSError:
        raise InputError(f"model folder {str(folder)!r} has no readable {CARD_FILE}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON") from None
    version = card.get("schema_version") if isinstance(card, dict) else None
    if version != MODEL_SCHEMA_VERSION:
        raise InputError(f"{path} has schema_version {version!r}; this version reads {MODEL_SCHEMA_VERSION}")
    return card


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Operator:
    """A network ready to answer: `forward(potential (B, S), times (B, T), initial (B, 2)) -> OperatorOutput`.

    Raises
    ------
    InputError
        Where the folder is incomplete, of another schema version, or its weights do not match its card.
    """
    folder = Path(folder)
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
    return model.to(device).eval()


def _build(card: dict[str, Any], path: Path) -> Operator:
    architecture = card.get("architecture")
    if not isinstance(architecture, dict):
        raise InputError(f"{path} does not describe an architecture")
    try:
        fields = get_architecture(str(architecture.get("name", ""))).Config.model_fields
        return build_operator(parse_architecture({key: value for key, value in _BEFORE.items() if key in fields} | architecture))
    except (ValidationError, InputError) as error:
        raise InputError(f"{path} does not describe an architecture of this version: {error}") from None
