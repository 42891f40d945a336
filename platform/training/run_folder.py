"""The folder of one training run: its record, whoever runs it.

config.yaml      the resolved configuration
dataset.json     which dataset it trains on, and its hash; and where the run was extended in a way that shows in its weights
history.jsonl    one line per epoch
checkpoints/     the full state after the latest epochs and after the best one
model/           the best model so far by validation loss
tensorboard/     the same figures, for TensorBoard
result.json      written last: the run is finished
"""

import json
import os
from collections.abc import Callable
from typing import Any

from ...architectures import build_operator
from ...physics import InputError
from ...physics.errors import StorageUnavailable, is_full_disk
from ...physics.files import is_litter, read_json, write_file, write_json
from ..config import Config, load_config
from ..data.manifest import read_manifest
from ..folder_lock import LOCK_FILE
from ..outputs import check_placement
from ..provenance import flatten
from ..storage import Location, Url
from .batches import training_files, validation_files
from .continuation import check_continuation, other_schedule
from .initial_model import find_initial_model, start_from
from .objectives import check_objective
from .trained_for import task_of

CONFIG_FILE, DATASET_FILE, HISTORY_FILE, RESULT_FILE = "config.yaml", "dataset.json", "history.jsonl", "result.json"
CHECKPOINTS_FOLDER, MODEL_FOLDER = "checkpoints", "model"


def prepare_run(
    run: Location,
    dataset: Location,
    config: Config,
    resume: bool,
    *,
    may_extend: bool = True,
    before_claim: Callable[[], None] = lambda: None,
) -> Config:
    """Check the inputs and claim the run folder, before any worker starts; returns the resolved configuration.

    A run that is resumed `may_extend` over more epochs than it began with. `before_claim` is called when all else is checked, and may
    refuse too.

    Raises
    ------
    InputError
        For an unusable dataset, a run folder already in use, or a resumed run whose data changed, or its configuration beyond what
        `check_continuation` allows.
    """
    manifest = read_manifest(dataset)
    for split in ("train", "val"):
        if manifest["counts"][split] == 0:
            raise InputError(f"split {split!r} of dataset {str(dataset)!r} has no rows; training needs both train and val")
    for split, rows, kind in (("train", config.training.train_rows, "training"), ("val", config.training.val_rows, "validation")):
        if rows is not None and rows > manifest["counts"][split]:
            raise InputError(f"training.{split}_rows is {rows}; dataset {str(dataset)!r} has {manifest['counts'][split]} {kind} rows")
    for files in (training_files, validation_files):
        files(dataset, config.training)  # refuses rows that are not there
    config = _take_from_dataset(config, dataset, manifest["config"])
    network = build_operator(config.architecture, task_of(config.data))  # refuses an architecture that cannot do the task
    check_objective(config.training, config.data.get_system(), network.window)
    if config.training.initial_model is not None:
        config = config.override({"training.initial_model": str(find_initial_model(config.training.initial_model))})
        start_from(network, str(config.training.initial_model))  # refuses a model that cannot be that
    check_placement(run)
    extended, is_longer = [], False
    if (run / CONFIG_FILE).exists():
        if not resume:
            raise InputError(f"--out {str(run)!r} already holds a run; add --resume to continue it or choose another folder")
        extended, is_longer = _continue(run, dataset, config, manifest["dataset_hash"], may_extend)
    elif _holds_other_things(run):
        raise InputError(f"--out {str(run)!r} exists and holds no run; choose another folder")
    before_claim()
    try:
        run.mkdir(parents=True, exist_ok=True)
        if is_longer:
            (run / RESULT_FILE).unlink(missing_ok=True)  # it is no longer finished
        about = {"dataset": str(dataset), "dataset_hash": manifest["dataset_hash"]}
        write_json(run / DATASET_FILE, about | ({"extended": extended} if extended else {}))
        config.save(run / CONFIG_FILE)  # last: it marks the folder as a run
    except OSError as error:
        refusal = StorageUnavailable if is_full_disk(error) else InputError
        raise refusal(f"--out {str(run)!r} cannot be written: {error.strerror}") from None
    return config


def _take_from_dataset(config: Config, dataset: Location, data: dict[str, Any]) -> Config:
    """The configuration with the section `data` of the dataset; InputError where a given key contradicts it."""
    fixed = {f"data.{key}": value for key, value in data.items()}
    actual, given = flatten({"data": data}), flatten(config.given())
    wrong = [f"{key} is {given[key]!r} and {actual[key]!r} in the dataset" for key in given if given[key] != actual.get(key, given[key])]
    if wrong:
        raise InputError(f"{'; '.join(wrong)}: {str(dataset)!r} fixes what it trains on, so leave this out or generate another dataset")
    return config.override(fixed)


def _holds_other_things(run: Location) -> bool:
    """Whether it holds more than what a process leaves that was killed while it claimed the folder."""
    names = [path.name for path in run.iterdir()] if run.exists() else []
    return any(name not in (DATASET_FILE, LOCK_FILE) and not name.endswith(".partial") and not is_litter(name) for name in names)


def _continue(run: Location, dataset: Location, config: Config, dataset_hash: str, may_extend: bool) -> tuple[list[str], bool]:
    """Check that the run can go on as `config`; returns what sets its epochs apart, as sentences, and whether it has more to do now."""
    before = load_config(run / CONFIG_FILE, given_as="the run's configuration")
    is_longer = check_continuation(before, config, may_extend)
    try:
        about = read_json(run / DATASET_FILE)
        recorded, extended = str(about["dataset_hash"]), extensions(about)
    except (InputError, KeyError):
        raise InputError(f"{run / DATASET_FILE} is missing or damaged, so the run cannot be continued safely; start another") from None
    if recorded != dataset_hash:
        raise InputError(
            f"dataset {str(dataset)!r} is not the one the run began with: its hash was {recorded[:16]}, is {dataset_hash[:16]}; "
            "generate it again as it was, or start another run"
        )
    if is_longer:
        words = other_schedule(before.training, config.training, len(History(run).read()))
        extended += [words] if words and words not in extended else []
    return extended, is_longer


def extensions(about: dict[str, Any]) -> list[str]:
    """The sentences of a run's dataset.json that tell how extending it shows in its weights."""
    return list(about.get("extended", []))


class History:
    """`history.jsonl`, one line per epoch. A line is written after its epoch and before the epoch's checkpoint."""

    def __init__(self, run: Location) -> None:
        self._path = run / HISTORY_FILE

    def read(self) -> list[dict[str, Any]]:
        """The lines, up to one that a crash may have cut short; InputError where another is damaged."""
        lines = self._lines()
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise InputError(f"{self._path} is damaged; start the run again") from None

    def _lines(self) -> list[bytes]:
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [line for line in lines if line.endswith(b"\n")]

    def append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        if isinstance(self._path, Url):  # whose files cannot grow
            write_file(self._path, b"".join([*self._lines(), line]))
            return
        with self._path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def cut(self, num_lines: int) -> list[dict[str, Any]]:
        """Drop what lies beyond the first lines, epochs that will be trained again; returns what is left.

        Raises InputError where fewer are there.
        """
        lines = self.read()
        if len(lines) < num_lines:
            raise InputError(f"{self._path} has {len(lines)} lines and the checkpoint follows epoch {num_lines}; start the run again")
        if self._path.exists():
            write_file(self._path, b"".join(self._lines()[:num_lines]))
        return lines[:num_lines]
