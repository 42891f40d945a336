"""Training state as safetensors files: tensors as tensors, the rest of the tree as JSON in the header."""

import json
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ...physics import InputError
from ...physics.files import write_file
from ..storage import Location, fetched

_TENSOR = "__tensor__"


class CheckpointFolder:
    """The states after the latest epochs and after the best one, a file each; all else is deleted as new ones come."""

    def __init__(self, folder: Location, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def save(self, epoch: int, best_epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch`, whole or not at all, then delete what need not be kept."""
        self._folder.mkdir(exist_ok=True)
        for half_written in self._folder.glob(".*.partial"):  # by a process that was killed
            half_written.unlink(missing_ok=True)
        save_checkpoint(self._path(epoch), state)
        for old in self.epochs()[: -self._keep]:
            if old != best_epoch:
                self._path(old).unlink(missing_ok=True)

    def epochs(self) -> list[int]:
        """The epochs whose states are there, in order."""
        numbers = (path.stem.removeprefix("epoch-") for path in self._folder.glob("epoch-*.safetensors"))
        return sorted(int(number) for number in numbers if number.isdecimal())  # of other names somebody else made the file

    def latest(self, device: torch.device) -> tuple[dict[str, Any] | None, str | None]:
        """The latest state that can be read, or None where there is none yet; and what was passed over, as a sentence.

        Raises
        ------
        InputError
            Where there are checkpoints and none can be read.
        """
        damaged: list[int] = []
        for epoch in reversed(self.epochs()):
            try:
                state = load_checkpoint(self._path(epoch), device)
            except InputError:
                damaged.append(epoch)
                continue
            passed_over = f"{', '.join(self._path(e).name for e in damaged)} damaged; went on from the state after epoch {epoch}"
            return state, passed_over if damaged else None
        if damaged:
            raise InputError(f"every checkpoint in {str(self._folder)!r} is damaged; delete the run folder to start again")
        return None, None

    def _path(self, epoch: int) -> Location:
        return self._folder / f"epoch-{epoch:05d}.safetensors"


def save_checkpoint(path: Location, state: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, numbers, strings and tensors; whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _strip(state, "state", tensors)
    write_file(path, save(tensors, metadata={"tree": json.dumps(tree)}))


def load_checkpoint(path: Location, device: torch.device) -> dict[str, Any]:
    """The tree as it was saved, tensors on `device`; InputError where the file is damaged."""
    try:
        with fetched(path) as copy, safe_open(copy, framework="pt", device=str(device)) as stored:
            tree = json.loads(stored.metadata()["tree"])
            return _fill(tree, stored)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise InputError(f"checkpoint {str(path)!r} is damaged") from None


def _strip(node: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, torch.Tensor):
        tensors[name] = node.detach().cpu().contiguous()
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
