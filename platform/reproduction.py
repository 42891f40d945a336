"""A shipped model from nothing, in one folder and without Ray: its data, its training, its evaluation.

dataset/      the certified trajectories
run/          the training run (see `run_folder`), with the model
report/       the evaluation of the model on the test split
result.json   written last: the model is trained and evaluated
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..architectures import read_card
from ..physics import InputError
from ..physics.files import is_litter, read_json, write_json
from .config import SHIPPED_CONFIGS, Config, load_data_config
from .data.generation import generate
from .data.manifest import MANIFEST_FILE
from .evaluation import evaluate
from .folder_lock import LOCK_FILE, holds_folder
from .machine import default_device
from .outputs import check_placement
from .storage import Location
from .training.run_folder import RESULT_FILE, History, prepare_run
from .training.runs import check_start, run_training

DATASET_FOLDER, RUN_FOLDER, REPORT_FOLDER = "dataset", "run", "report"
_EVALUATION_SECONDS = 180.0  # a generous limit for an evaluation: it is short, and cannot be interrupted and continued


def default_config(ensemble: str) -> str:
    """The name of the shipped configuration that makes the model of `ensemble` on this machine; InputError where there is none."""
    kind = "winner" if torch.cuda.is_available() else "shipped"
    names = {load_data_config(path).distribution.name: path.stem for path in sorted(SHIPPED_CONFIGS.glob(f"{kind}-orbitnet*.yaml"))}
    if ensemble not in names:
        raise InputError(f"ENSEMBLE is {ensemble!r}; there are shipped models for {', '.join(sorted(names))}; or give --config")
    return names[ensemble]


@holds_folder("out", "--out")
def reproduce(config: Config, out: Path, deadline: float | None = None) -> dict[str, Any]:
    """Do what `out` still lacks of the model that `config` describes, and of its evaluation.

    An interrupted call is continued by the next one, and a step that is done is not done again. With a `deadline`, in seconds
    as `time.time` counts them, training stops in time and an evaluation that might end too late does not begin; but each call
    makes some progress, at least one epoch, so that repeated calls finish.

    Returns `finished`, what is `left` (a list of phrases) and how far training is; when finished, the content of result.json.

    Raises
    ------
    InputError
        Where a split has no rows, `out` holds something else, or a step refuses.
    """
    out, steps = out.absolute(), _Steps(deadline)
    dataset, run, report = out / DATASET_FOLDER, out / RUN_FOLDER, out / REPORT_FOLDER
    _check(config, out)

    if not (dataset / MANIFEST_FILE).exists():
        steps.begin(f"generate {sum(config.data.counts.values())} certified trajectories")
    manifest = generate(dataset, config.data, local=True)  # checks every file of an existing dataset

    trained = _train(config, dataset, run, steps)
    if not trained["finished"]:
        return trained | {"finished": False, "left": [_epochs_left(config, run), "the evaluation"]}

    subject = {
        "dataset_hash": manifest["dataset_hash"],
        "weights_sha256": read_card(trained["model"])["weights_sha256"],
        "evaluation": config.dump()["evaluation"],
    }
    done = _read_result(out / RESULT_FILE)
    if done is not None and done == done | subject and _read_result(report / "evaluation.json") and (report / "report.html").exists():
        return done
    if not steps.begin("evaluate the model on the test split", _EVALUATION_SECONDS):
        return trained | {"finished": False, "left": ["the evaluation"]}
    evaluation = evaluate(Path(trained["model"]), dataset, report, settings=config.evaluation, record=True)
    losses = {"test_loss": evaluation["metrics"]["total_loss"]}
    result = trained | subject | losses | {"report": str(report / "report.html"), "left": []}
    write_json(out / RESULT_FILE, result)
    return result


class _Steps:
    """The steps of one call, announced on stderr as they begin."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self._started = time.time()
        self._has_worked = False

    def begin(self, step: str, seconds: float = 0.0) -> bool:
        """Whether a step of `seconds` begins now: if that much time is left, or if this call has done nothing else yet."""
        now = time.time()
        if self._has_worked and self.deadline is not None and self.deadline - now < seconds:
            return False
        self._has_worked = True
        print(f"[{now - self._started:5.0f} s] {step}", file=sys.stderr, flush=True)
        return True


def _check(config: Config, out: Path) -> None:
    check_start(config.training, default_device())
    check_placement(out)
    for split, rows in config.data.counts.items():
        if rows == 0:
            raise InputError(f"data.{split} is 0; a reproduction needs rows for training, validation and test")
    for name in os.listdir(out) if out.exists() else ():
        known = (DATASET_FOLDER, RUN_FOLDER, REPORT_FOLDER, RESULT_FILE, LOCK_FILE)
        if name not in known and not (name.endswith(".partial") or is_litter(name)):
            raise InputError(f"--out {str(out)!r} holds {name!r}, which is not part of a reproduction; choose another folder")


def _train(config: Config, dataset: Location, run: Path, steps: _Steps) -> dict[str, Any]:
    """The result of the run, `finished` or not."""
    prepare_run(run, dataset, config, resume=True, may_extend=False)  # refuses a run of another configuration, even a finished one
    done = _read_result(run / RESULT_FILE)
    if done is not None:
        return done
    if not steps.begin(f"train {config.architecture.name} for {_epochs_left(config, run)}"):
        return {"epochs": len(History(run).read()), "finished": False}
    return run_training(config, dataset, run, workers=0, resume=True, deadline=steps.deadline)


def _epochs_left(config: Config, run: Path) -> str:
    """In words, with the time they should take once there is a history to estimate it from."""
    history, epochs = History(run).read(), config.training.epochs
    left = epochs - len(history)
    seconds = left * sum(line["seconds"] for line in history) / max(len(history), 1)
    time_left = f" (about {f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'})" if history else ""
    return f"{left} of {epochs} epochs{time_left}"


def _read_result(path: Path) -> dict[str, Any] | None:
    """The record of a finished step; None where there is none or it is damaged, so that the step is done again."""
    try:
        return read_json(path)
    except InputError:
        return None
