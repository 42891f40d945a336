"""Trains the direct MambONet for the minutes that are left, from where the newest checkpoint stopped.

The run folder is a temporary one. After each epoch DIR/learn gets what is needed to continue from there: configuration,
history, the latest checkpoint, and the best model; five files of at most 16 MiB, and one that is being written. How many epochs
there will be is decided at the start, from the time that one takes here, so that the learning rate ends at its lowest when the time
does. The next call finds them done, adds as many as it has time for, and goes on at the rate that the longer schedule has there.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from neural_hamilton.physics import InputError
from neural_hamilton.physics.files import write_file, write_json
from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.provenance import hash_json
from neural_hamilton.platform.training.checkpoints import CheckpointFolder
from neural_hamilton.platform.training.learner import Learner
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.process_group import Worker
from neural_hamilton.platform.training.run_folder import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    DATASET_FILE,
    HISTORY_FILE,
    MODEL_FOLDER,
    History,
    prepare_run,
)

from . import LEARN_FOLDER, RESULTS
from .bench import Bench, Cell
from .networks import DIRECT, network_config
from .record import say

MAX_BYTES = 16 * 2**20  # of a file that is to leave the machine
_MARGIN = 0.95  # of the time left is planned for; the rest is for slower epochs than the one that was timed
_TIMED_STEPS = 300
_TINY_EPOCHS = 2


def cells(bench: Bench) -> Iterator[Cell]:
    yield Cell({"network": DIRECT}, lambda: _learn(bench, bench.out / LEARN_FOLDER))


def _learn(bench: Bench, published: Path) -> dict[str, Any]:
    with _scratch_for(published) as scratch:
        dataset, run = scratch / "dataset", scratch / "run"
        config = network_config(DIRECT, bench.tiny, {})
        source = newest(config, published, RESULTS / LEARN_FOLDER)
        if source != published:
            shutil.rmtree(published, ignore_errors=True)  # nothing of what is there can be continued
        config = load_config(source / CONFIG_FILE) if source else config
        config = config.override({"training.cuda_graph": bench.device.type == "cuda"})
        manifest = generate(dataset, config.data, local=True)
        done = epochs_of(source) if source else 0
        fit = _epochs_that_fit(config, dataset, scratch, bench)
        more = bench.size(fit, min(fit, _TINY_EPOCHS))
        config = config.override({"training.epochs": done + more})
        if source:
            shutil.copytree(source, run)
            # Rows of one seed are the same everywhere, but for last bits that depend on the processor, and with them the hash.
            write_json(run / DATASET_FILE, {"dataset": str(dataset), "dataset_hash": manifest["dataset_hash"]})
            config.save(run / CONFIG_FILE)
        config = prepare_run(run, dataset, config, resume=True)
        say(f"learn: {done} epochs done{f' in {source}' if source else ''}, {more} to go")

        def report(figures: dict[str, float]) -> None:
            publish(run, published)
            epoch, loss, seconds = int(figures["epoch"]), figures["validation_loss"], figures["seconds"]
            say(f"learn: epoch {epoch} of {done + more}: validation loss {loss:.3e}, {seconds:.2f} s")

        result = train(config, dataset, run, report, bench.device, deadline=bench.deadline)
        steps = -(-config.data.train // config.training.batch_size)
        names = ("epochs", "finished", "best_epoch", "validation_loss", "num_parameters", "seconds")
        figures = {name: result[name] for name in names}
        return figures | {"epochs_before": done, "rows_drawn": result["epochs"] * config.data.train, "steps": result["epochs"] * steps}


@contextmanager
def _scratch_for(published: Path) -> Iterator[Path]:
    """A folder of its own for each DIR, so that a run that was killed leaves none behind but this one's."""
    scratch = Path(tempfile.gettempdir()) / f"neural-hamilton-learn-{hash_json(str(published))[:16]}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def newest(config: Config, *folders: Path) -> Path | None:
    """Of several folders, there or not, the one with the most epochs behind a checkpoint of this network on these data.

    One that is damaged, or is of something else, is passed over with a line that says why.
    """
    good = []
    for folder in folders:
        if epochs_of(folder):
            if problem := _problem(config, folder):
                say(f"learn: {folder} is not continued: {problem}")
            else:
                good.append(folder)
    return max(good, key=epochs_of, default=None)


def _problem(config: Config, folder: Path) -> str | None:
    """Why a run cannot be continued from a folder, if so."""
    try:
        before = load_config(folder / CONFIG_FILE)
        state, _ = CheckpointFolder(folder / CHECKPOINTS_FOLDER, keep=1).latest(torch.device("cpu"))
        if (before.data, before.architecture) != (config.data, config.architecture):
            return "it is of another network or other data"
        if state is None or len(History(folder).read()) < state["epoch"]:
            return "its history is shorter than its training"
        Learner(before, (0.0, 1.0), torch.device("cpu"), Worker(0, 1)).load_state_dict(state["learner"])
    except (InputError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        return str(error)
    return None


def epochs_of(folder: Path) -> int:
    """Epochs behind the checkpoint in a folder; 0 where there is none."""
    return max(CheckpointFolder(folder / CHECKPOINTS_FOLDER, keep=1).epochs(), default=0)


def publish(run: Path, target: Path) -> None:
    """Bring `target` to the state of `run` after an epoch. A checkpoint there is always whole, and what belongs to it is there before.

    Raises ValueError where a file is too large to leave the machine.
    """
    latest = max((run / CHECKPOINTS_FOLDER).iterdir())
    files = [run / name for name in (CONFIG_FILE, HISTORY_FILE)] + sorted((run / MODEL_FOLDER).glob("model.*")) + [latest]
    for file in files:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{file.name} has {file.stat().st_size} bytes; at most {MAX_BYTES} can leave the machine")
        copy = target / file.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_file(copy, file.read_bytes())
    for old in (target / CHECKPOINTS_FOLDER).iterdir():
        if old.name != latest.name:
            old.unlink()


def _epochs_that_fit(config: Config, dataset: Path, scratch: Path, bench: Bench) -> int:
    """From the second epoch of a short run of the same kind: its steps, and all else that belongs to an epoch."""
    run, steps, ends = scratch / "short-run", list[float](), list[float]()

    def report(_: dict[str, float]) -> None:
        publish(run, scratch / "published")
        ends.append(time.time())

    rows = min(config.data.train, _TIMED_STEPS * config.training.batch_size)
    short = prepare_run(run, dataset, config.override({"training.epochs": 2, "training.train_rows": rows}), resume=False)
    train(short, dataset, run, report, bench.device, on_step=lambda: steps.append(time.time()))
    number = len(steps) // 2
    early, last = steps[number + number // 3 - 1], steps[-1]  # by then a GPU has been waited for
    a_step = (last - early) / (number - number // 3)
    rest = ends[1] - ends[0] - number * a_step
    seconds = rest + a_step * -(-config.data.train // config.training.batch_size)
    say(f"learn: {1e3 * a_step:.2f} ms per step, {seconds:.2f} s per epoch, {bench.seconds_left():.0f} s left")
    return max(1, int(_MARGIN * bench.seconds_left() / seconds))
