"""What a trial does in its worker: it trains its runs, one for each seed, and reports their objectives.

A trial of one seed has one run, in its own folder; one of several seeds has a run in each of `seed-0`, `seed-1`, ...
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...platform.config import Config
from ...platform.progress import Progress
from ...platform.storage import Location
from ...platform.training.loop import train
from ...platform.training.run_folder import History, prepare_run
from .objectives import VALIDATION_LOSS, measure_run
from .resources import Share

_POLL_SECONDS = 0.5  # how often the history of workers in other processes is read


def run_folders(trial: Location, seeds: int) -> list[Location]:
    """The run folders of a trial."""
    return [trial] if seeds == 1 else [trial / f"seed-{seed}" for seed in range(seeds)]


def trained(trial: Location, seeds: int) -> tuple[int, float]:
    """The epochs of the longest run so far, and the seconds of all."""
    histories = [History(run).read() for run in run_folders(trial, seeds)]
    return max(map(len, histories)), sum(line["seconds"] for history in histories for line in history)


@dataclass(frozen=True)
class TrialWork:
    """Trains a trial of `config` on `dataset`. `report` receives "values", pairs of an epoch and its objectives, and "seconds" so far.

    Every epoch is reported where the objective is the validation loss. Other objectives are measured at `rungs` and at the end.
    """

    config: Config
    dataset: Location
    folder: Location
    rungs: Sequence[int]
    share: Share
    report: Callable[[dict[str, Any]], None]

    def __call__(self) -> None:
        settings = self.config.sweep
        reports = _Reports(self)
        if settings.workers > 1:
            _train_with_workers(self, reports)
        elif settings.seeds == 1:
            reports.send()  # where it left off
            train(self.config, self.dataset, self.folder, lambda _: reports.send())
        else:
            for target in (*self.rungs, self.config.training.epochs):
                for run, config in self.runs:
                    _train_until(config, self.dataset, run, target)
                reports.send()
        reports.send(at_end=True)

    @cached_property
    def runs(self) -> list[tuple[Location, Config]]:
        """The run folders, each with its configuration."""
        folders, seed = run_folders(self.folder, self.config.sweep.seeds), self.config.training.seed
        return [(run, self.config.override({"training.seed": seed + index})) for index, run in enumerate(folders)]

    def prepare(self) -> None:
        """Claim the run folders."""
        for run, config in self.runs:
            prepare_run(run, self.dataset, config, resume=True)


class _Reports:
    """The objectives of a trial, from its run folders, each reported once."""

    def __init__(self, work: TrialWork) -> None:
        self._work, self._objectives, self._sent = work, tuple(work.config.sweep.objectives), 0

    def send(self, at_end: bool = False) -> None:
        runs = self._work.runs
        histories = [History(run).read() for run, _ in runs]
        epoch = max(map(len, histories))
        if not epoch or (epoch == self._sent and not at_end):
            return
        values: dict[int, list[float]] = {}
        if self._objectives == VALIDATION_LOSS:
            # A run that patience ended keeps its best loss.
            curves = [np.minimum.accumulate([line["validation_loss"] for line in history]) for history in histories]
            for each in range(self._sent + 1, epoch + 1):
                values[each] = [float(np.mean([curve[min(each, len(curve)) - 1] for curve in curves]))]
        elif at_end or epoch in self._work.rungs:
            figures = [measure_run(run, self._work.dataset, config, self._objectives) for run, config in runs]
            values[epoch] = np.mean(figures, axis=0).tolist()
        self._sent = epoch
        if values:
            seconds = sum(line["seconds"] for history in histories for line in history)
            self._work.report({"values": list(values.items()), "seconds": seconds})


class _Pause(Exception):
    """Ends a call of `train` after the epoch that it was meant to reach."""


def _train_until(config: Config, dataset: Location, run: Location, target: int) -> None:
    """Train a run up to `target` epochs, so that the runs of a trial reach a rung before it is judged."""
    if target < config.training.epochs and len(History(run).read()) >= target:
        return

    def pause(record: dict[str, float]) -> None:
        if record["epoch"] >= target < config.training.epochs:
            raise _Pause  # the state after the epoch is saved

    with suppress(_Pause):
        train(config, dataset, run, pause)


def _train_with_workers(work: TrialWork, reports: _Reports) -> None:
    from ...platform.training.distributed import train_with_ray

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            reports.send()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        train_with_ray(work.config, work.dataset, work.folder, work.share.workers, _Silent(), resources=work.share.of_worker)
    finally:
        ended.set()
        watcher.join()


class _Silent(Progress):
    """The progress of a trial is that of its sweep."""

    def __init__(self) -> None:
        super().__init__("", 1)

    def advance(self, amount: int = 1, note: str = "") -> None:
        pass
