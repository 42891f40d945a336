"""Training state as one safetensors file: tensors as tensors, the rest of the tree as JSON in its header."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..physics import InputError
from .provenance import write_atomically

_TENSOR = "__tensor__"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, numbers, strings and tensors; whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _strip(state, "state", tensors)
    write_atomically(path, save(tensors, metadata={"tree": json.dumps(tree)}))


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The tree as it was saved, tensors on `device`; InputError where the file is damaged."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as stored:
            tree = json.loads(stored.metadata()["tree"])
            return _fill(tree, stored)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise InputError(f"checkpoint {str(path)!r} is damaged; delete it to start the run again") from None


def _strip(node: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, torch.Tensor):
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(node, dict):
        # Pairs, because JSON would turn the integer keys of an optimizer's state into text.
        return {"pairs": [[key, _strip(value, f"{name}.{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        return [_strip(value, f"{name}.{index}", tensors) for index, value in enumerate(node)]
    return node


def _fill(node: Any, stored: Any) -> Any:
    if isinstance(node, dict):
        if _TENSOR in node:
            return stored.get_tensor(node[_TENSOR])
        return {key: _fill(value, stored) for key, value in node["pairs"]}
    if isinstance(node, list):
        return [_fill(value, stored) for value in node]
    return node
