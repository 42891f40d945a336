"""What a run folder holds of the epochs trained so far, written in the order that survives a crash: model, history, checkpoint."""

import itertools
from typing import Any

import torch

from ...architectures import Operator, save_model
from ...physics import InputError
from ...physics.files import read_json, write_json
from ..config import Config
from ..data.manifest import read_manifest
from ..data.shards import rows_config
from ..provenance import code_version, hash_json
from ..storage import Location
from .batches import rows_of
from .checkpoints import CheckpointFolder
from .learner import Learner
from .process_group import Worker
from .run_folder import CHECKPOINTS_FOLDER, DATASET_FILE, MODEL_FOLDER, RESULT_FILE, History, extensions
from .trained_for import trained_for


class Record:
    """The history of a run, its best epoch, and the files that keep both."""

    def __init__(self, config: Config, dataset: Location, run: Location, worker: Worker) -> None:
        self._settings, self._run, self._worker = config.training, run, worker
        self._architecture = config.architecture.name
        self._trained_for = trained_for(config.data)
        self._provenance = _provenance(config, dataset)
        self._train_rows = rows_of(config)
        self._lines = History(run)
        self._checkpoints = CheckpointFolder(run / CHECKPOINTS_FOLDER, config.training.keep_checkpoints)
        self._warning: str | None = None
        self.history: list[dict[str, Any]] = []

    def resume(self, learner: Learner, device: torch.device) -> None:
        """Restore learner and history from the latest readable checkpoint, if there is one."""
        state, self._warning = self._checkpoints.latest(device)
        done = state["epoch"] if state else 0
        self._worker.first_writes(lambda: self._lines.cut(done))
        self.history = self._lines.read()[:done]
        if state:
            try:
                learner.load_state_dict(state["learner"])
            except (KeyError, TypeError, ValueError, RuntimeError):
                raise InputError(
                    f"the checkpoint in {str(self._run)!r} does not fit this network and optimizer, as one of another version may not; "
                    "start another run"
                ) from None

    @property
    def best(self) -> dict[str, Any]:
        return min(self.history, key=lambda line: line["validation_loss"])

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are trained, or `training.patience` is used up."""
        patience = self._settings.patience
        impatient = patience is not None and bool(self.history) and len(self.history) - self.best["epoch"] >= patience
        return impatient or len(self.history) >= self._settings.epochs

    def add(self, line: dict[str, Any], judged: Operator) -> None:
        """Take the line of an epoch; its network is saved where it is the best so far."""
        if self._warning:
            line, self._warning = line | {"warning": self._warning}, None
        self.history.append(line)
        if self.best is line:
            self._worker.first_writes(
                lambda: save_model(judged, self._run / MODEL_FOLDER, self._trained_for, self._provenance | self._cost() | {"metrics": line})
            )
        self._worker.first_writes(lambda: self._lines.append(line))

    def _cost(self) -> dict[str, Any]:
        """What the model cost so far, in wall time and rows drawn for it; where it began; and its stages."""
        return {
            "seconds": sum(line["seconds"] for line in self.history),
            "rows_drawn": self._train_rows * (len(self.history) if self._settings.endless else 1),
            "first_validation_loss": self.history[0]["validation_loss"],
            "stages": stages_of(self.history),
            **({"extended": extended} if (extended := self._extensions()) else {}),
        }

    def _extensions(self) -> list[str]:
        path = self._run / DATASET_FILE
        return extensions(read_json(path)) if path.exists() else []

    def save(self, learner: Learner) -> None:
        """The state after the latest epoch."""
        epoch = len(self.history)
        state = {"epoch": epoch, "learner": learner.state_dict()}
        self._worker.first_writes(lambda: self._checkpoints.save(epoch, self.best["epoch"], state))

    def conclude(self, learner: Learner, about: dict[str, Any]) -> dict[str, Any]:
        """The result of the run so far; a finished run keeps it as result.json."""
        epochs = len(self.history)
        result = {
            "run": str(self._run),
            "model": str(self._run / MODEL_FOLDER),
            "architecture": self._architecture,
            "num_parameters": sum(p.numel() for p in learner.model.parameters()),
            "train_rows": self._train_rows,
            "epochs": epochs,
            "finished": self.is_finished,
            "stopped_early": self.is_finished and epochs < self._settings.epochs,
            "best_epoch": self.best["epoch"],
            "first_validation_loss": self.history[0]["validation_loss"],
            "validation_loss": self.best["validation_loss"],
            "seconds": sum(line["seconds"] for line in self.history),
            **about,
            "warnings": [*self._extensions(), *(line["warning"] for line in self.history if "warning" in line)],
        }
        if self.is_finished:
            self._worker.first_writes(lambda: write_json(self._run / RESULT_FILE, result))
        return result


def stages_of(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Consecutive epochs on one device with equally many steps, as `epochs`, `steps`, `device`, `seconds` and `validation_losses`.

    One stage, unless a run went on elsewhere or with other batches.
    """
    groups = itertools.groupby(history, key=lambda line: (line["device"], line["steps"]))
    return [
        {
            "epochs": len(lines),
            "steps": steps * len(lines),
            "device": device,
            "seconds": sum(line["seconds"] for line in lines),
            "validation_losses": [line["validation_loss"] for line in lines],
        }
        for (device, steps), lines in ((key, list(group)) for key, group in groups)
    ]


def _provenance(config: Config, dataset: Location) -> dict[str, Any]:
    manifest = read_manifest(dataset)
    return {
        "dataset_hash": manifest["dataset_hash"],
        "rows_config_hash": hash_json(rows_config(config.data)),
        "config_hash": hash_json(config.dump()),
        "config": config.dump(),
        "code_version": code_version(),
        "torch_version": torch.__version__,
    }
