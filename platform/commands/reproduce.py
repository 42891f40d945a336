"""A shipped model from nothing, in one folder and without Ray: its data, its training, its measurement.

dataset/      the certified trajectories
run/          the training run (see `run_folder`), with the model
report/       the model measured on the test split
result.json   written last: the model is made and measured
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ...architectures import read_card
from ...physics import InputError
from ..config.tree import Config
from ..data.generation import generate
from ..data.manifest import MANIFEST_FILE
from ..evaluation import evaluate
from ..provenance import write_json
from ..training.loop import check_precision, default_device
from ..training.run_folder import RESULT_FILE, History, prepare_run
from ..training.runs import run_training

DATASET_FOLDER, RUN_FOLDER, REPORT_FOLDER = "dataset", "run", "report"
_EVALUATION_SECONDS = 180.0  # what one may take, generously: it is short, and cannot be interrupted and continued


def default_config(preset: str) -> str:
    """The name of the configuration that makes the model of `preset` on this machine."""
    model = "orbitnet" if preset == "paper" else f"orbitnet-{preset}"
    return f"{'winner' if torch.cuda.is_available() else 'shipped'}-{model}"


def reproduce(config: Config, out: Path, deadline: float | None = None) -> dict[str, Any]:
    """Do what `out` still lacks of the model that `config` describes, and of its measurement.

    Whatever ended an earlier call, this one goes on from there, and a step that is done is not done again. With a `deadline`,
    in seconds as `time.time` counts them, training stops in time and an evaluation that might not be done in time does not
    begin; but each call does something, be it one epoch, so that calls enough finish it.

    Returns `finished`, what is `left` (a list of phrases) and how far training is; when finished, what result.json holds.

    Raises
    ------
    InputError
        Where a split is to have no rows, `out` holds something else, or a step refuses.
    """
    out, stage = out.absolute(), _Stage(deadline)
    _check(config, out)
    dataset, run, report = out / DATASET_FOLDER, out / RUN_FOLDER, out / REPORT_FOLDER
    if not (dataset / MANIFEST_FILE).exists():
        stage.begins(f"generate {sum(config.data.counts.values())} certified trajectories")
    manifest = generate(dataset, config.data, local=True)  # of a dataset that is there, it checks every file

    trained = _train(config, dataset, run, stage)
    if not trained["finished"]:
        return trained | {"finished": False, "left": [_epochs_left(config, run), "the evaluation"]}

    subject = {
        "dataset_hash": manifest["dataset_hash"],
        "weights_sha256": read_card(trained["model"])["weights_sha256"],
        "evaluation": config.evaluation.model_dump(mode="json"),
    }
    done, page = _read_json(out / RESULT_FILE), report / "report.html"
    if done is None or done | subject != done or _read_json(report / "evaluation.json") is None or not page.exists():
        if not stage.begins("evaluate the model on the test split", _EVALUATION_SECONDS):
            return trained | {"finished": False, "left": ["the evaluation"]}
        losses = evaluate(Path(trained["model"]), dataset, report, settings=config.evaluation, record=True)["metrics"]["total_loss"]
        done = trained | subject | {"test_loss": losses, "report": str(page), "left": []}
        write_json(out / RESULT_FILE, done)
    return done


class _Stage:
    """One call among those that may be needed, and the time it has."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self._started = time.time()
        self._has_worked = False

    def begins(self, step: str, seconds: float = 0.0) -> bool:
        """Whether a step that takes `seconds` begins now: where they are left, or where this call has done nothing else yet."""
        now = time.time()
        if self._has_worked and self.deadline is not None and self.deadline - now < seconds:
            return False
        self._has_worked = True
        print(f"[{now - self._started:5.0f} s] {step}", file=sys.stderr, flush=True)
        return True


def _check(config: Config, out: Path) -> None:
    check_precision(config.training, default_device())
    for split, rows in config.data.counts.items():
        if rows == 0:
            raise InputError(f"data.{split} is 0; a reproduction needs rows to train on, to validate and to test")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {str(out)!r} is a file; give a folder")
    for name in os.listdir(out) if out.exists() else ():
        if name not in (DATASET_FOLDER, RUN_FOLDER, REPORT_FOLDER, RESULT_FILE) and not name.endswith(".partial"):
            raise InputError(f"--out {str(out)!r} holds {name!r}, which is no part of a reproduction; choose another folder")


def _train(config: Config, dataset: Path, run: Path, stage: _Stage) -> dict[str, Any]:
    """The result of the run, `finished` or not."""
    prepare_run(run, dataset, config, resume=True)  # a run that is another than `config` asks for is refused, also a finished one
    done = _read_json(run / RESULT_FILE)
    if done is not None:
        return done
    if not stage.begins(f"train {config.architecture.name} for {_epochs_left(config, run)}"):
        return {"epochs": len(History(run).read()), "finished": False}
    return run_training(config, dataset, run, workers=0, resume=True, deadline=stage.deadline)


def _epochs_left(config: Config, run: Path) -> str:
    """In words, with the time they should take where there is a history to tell by."""
    history, epochs = History(run).read(), config.training.epochs
    left = epochs - len(history)
    seconds = left * sum(line["seconds"] for line in history) / max(len(history), 1)
    time_left = f" (about {f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'})" if history else ""
    return f"{left} of {epochs} epochs{time_left}"


def _read_json(path: Path) -> dict[str, Any] | None:
    """What a step wrote as it ended; None where it has not, or a disk has damaged it since: the step is then done again."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
