"""The study of a sweep: which trials were proposed, what they have reported and how they ended. Its record is the Optuna storage.

A trial is written down in this order, so that a driver killed between any two writes leaves nothing to guess:

    its parameters, then user attribute `ready`     they can be built, and it has a run folder from here on
    its objective so far after epochs               intermediate values; of several objectives, user attributes `values EPOCH`
    `kept`, the last rung that it passed            a rung beyond it has not been judged
    `epochs`, `seconds`, `reason`, then its state   COMPLETE, PRUNED when stopped early, FAIL for a reason

Trials found running belong to a driver that is gone, and go on under the same number. Optuna has intermediate values of one objective
only, and its TPE fails where a study of several has any.
"""

import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...physics import InputError
from ...physics.errors import is_full_disk
from ...physics.files import write_file
from ...platform.storage import Location, Url
from .search_spaces import Space, suggest
from .stopping import Stopper

STORAGE_FILE, STUDY_NAME = "optuna.db", "sweep"
_VALUES = "values "
_MOST_DRAWS, _DRAWS_OF_SAMPLER = 100, 10  # of one trial; those after the sampler's own are random


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number and its parameters."""

    number: int
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Database:
    """An Optuna storage, and how to `keep` what it holds where that takes more than to write it."""

    storage: Any
    keep: Callable[[], None] = lambda: None


def open_database(out: Location, url: str | None = None) -> Database:
    """The SQLite file of a sweep, or the database at an SQLAlchemy URL. Their locks, unlike a journal file's, end with their holder.

    SQLite needs a disk: of a sweep in a store it works on a copy of the file, and `keep` uploads that.

    Raises
    ------
    InputError
        Where the database cannot be reached, or its driver is not installed.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    copy = _LocalCopy(out / STORAGE_FILE) if isinstance(out, Url) and url is None else None
    try:
        # A folder's name may hold what means something in a URL.
        storage = optuna.storages.RDBStorage(url or f"sqlite:///{quote(str(copy.path if copy else out / STORAGE_FILE))}")
        return Database(storage, copy.upload) if copy else Database(storage)
    except (ImportError, SQLAlchemyError) as error:
        if is_full_disk(error):
            raise
        reason = str(error).strip().splitlines()[0]
        remedy = "give another --storage" if url else "choose another folder"
        raise InputError(f"the database {url or str(out / STORAGE_FILE)!r} cannot be opened: {reason}; {remedy}") from None


class _LocalCopy:
    """The copy of an SQLite file that lies in a store, in a folder that goes with this process."""

    def __init__(self, original: Url) -> None:
        self._original = original
        self._folder = tempfile.TemporaryDirectory(prefix="neural-hamilton-")
        self.path = Path(self._folder.name) / original.name
        if original.is_file():
            self.path.write_bytes(original.read_bytes())

    def upload(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            content = connection.serialize()  # of one moment, whoever writes meanwhile
        write_file(self._original, content)


class Study:
    """The study called `name` in a storage, of `num_objectives` objectives, all minimised.

    `make_sampler` receives the number of trials that the storage holds: sampling continues instead of repeating itself. `why_not`
    returns why a network with these parameters cannot be built, or None. Such parameters are drawn again. A new study begins with the
    parameters in `start`. `keep` is called where what the storage holds must not be lost.
    """

    def __init__(
        self,
        storage: Any,
        space: Space,
        stopper: Stopper,
        make_sampler: Callable[[int], Any],
        why_not: Callable[[dict[str, Any]], str | None] = lambda _: None,
        *,
        name: str = STUDY_NAME,
        num_objectives: int = 1,
        start: Sequence[dict[str, Any]] = (),
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage, self.space, self.stopper, self._why_not, self._num_objectives = storage, space, stopper, why_not, num_objectives
        self._keep = keep
        directions = [optuna.study.StudyDirection.MINIMIZE] * num_objectives
        self.optuna = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
        for parameters in start:  # a driver that was killed among them goes on with the rest
            self.optuna.enqueue_trial(parameters, skip_if_exists=True)
        self.optuna.sampler = make_sampler(len(self.trials()))
        running = self.optuna.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        self._left = [trial._trial_id for trial in running]
        self._counted = time.monotonic()

    def trials(self) -> list[Any]:
        return self.optuna.get_trials(deepcopy=False)

    def ended(self) -> list[Any]:
        """The trials that count: all that ended, without proposals that were never run."""
        return [trial for trial in self.trials() if trial.state.is_finished() and "ready" in trial.user_attrs]

    def propose(self) -> Proposal:
        """The next trial to run: one that was interrupted, else a new one.

        Raises
        ------
        InputError
            Where draw after draw cannot be built, or a grid has been searched.
        """
        import optuna

        usual, reason = self.optuna.sampler, ""
        try:
            for draw in range(_MOST_DRAWS):
                if draw == _DRAWS_OF_SAMPLER and not isinstance(usual, optuna.samplers.GridSampler):
                    self.optuna.sampler = optuna.samplers.RandomSampler(seed=len(self.trials()))  # one that learns may insist
                trial = self._next_trial()
                parameters = suggest(self.space, trial)  # what was drawn before an interruption stays
                reason = self._why_not(parameters)
                if reason is None:
                    trial.set_user_attr("ready", True)
                    self._keep()  # before its folder is there
                    return Proposal(trial.number, parameters)
                trial.set_user_attr("reason", reason)
                self.optuna.tell(trial, state=optuna.trial.TrialState.FAIL)
        finally:
            self.optuna.sampler = usual
        raise InputError(
            f"sweep.space gave {_MOST_DRAWS} configurations in a row that cannot be built, the last because {reason}; narrow it"
        )

    def _next_trial(self) -> Any:
        import optuna

        if self._left:
            return optuna.trial.Trial(self.optuna, self._left.pop(0))
        if len(self.trials()) >= getattr(self.optuna.sampler, "size", math.inf):
            raise InputError("the grid of sweep.space has fewer combinations that can be built than --trials asks for")
        return self.optuna.ask()

    def curve(self, trial: Any) -> dict[int, tuple[float, ...]]:
        """The objectives of a trial after the epochs at which they were recorded, in order."""
        if self._num_objectives == 1:
            return {epoch: (value,) for epoch, value in sorted(trial.intermediate_values.items())}
        attributes = trial.user_attrs.items()
        found = {int(key.removeprefix(_VALUES)): tuple(value) for key, value in attributes if key.startswith(_VALUES)}
        return dict(sorted(found.items()))

    def report(self, number: int, values: Mapping[int, Sequence[float]], seconds: float) -> bool:
        """Record the objectives so far after some epochs; returns whether the trial goes on.

        Epochs that the record holds already change nothing, and a rung is judged once.
        """
        trial = self._trial(number)
        if trial.state.is_finished():
            return False
        rungs, kept, held = self.stopper.rungs(number), trial.user_attrs.get("kept", 0), self.curve(trial)
        for epoch in sorted(values):
            if epoch not in held:
                self._record(trial, epoch, values[epoch])
            if epoch in rungs and epoch > kept:
                if not self.stopper.keeps(number, epoch, {other.number: self.curve(other) for other in self.trials()}):
                    self._close(trial, "PRUNED", epoch, seconds)
                    return False
                self._storage.set_trial_user_attr(trial._trial_id, "kept", epoch)
                self._keep()
        return True

    def end(self, number: int, epochs: int, seconds: float, reason: str | None = None) -> None:
        """Record the end of a trial; `reason` says why it failed. Nothing changes where it was stopped early."""
        trial = self._trial(number)
        if trial.state.is_finished():
            return
        if reason is None and not self.curve(trial):
            reason = "it ended before its first epoch"
        self._close(trial, "FAIL" if reason else "COMPLETE", epochs, seconds, reason)

    def count_seconds(self) -> None:
        """Add the time since the study was opened or last counted to `wall_seconds`."""
        elapsed = time.monotonic() - self._counted
        self._counted += elapsed
        self.optuna.set_user_attr("wall_seconds", self.wall_seconds + elapsed)
        self._keep()

    @property
    def wall_seconds(self) -> float:
        """The time that all drivers together have worked on the study."""
        return self.optuna.user_attrs.get("wall_seconds", 0.0)

    def _record(self, trial: Any, epoch: int, values: Sequence[float]) -> None:
        assert len(values) == self._num_objectives and all(map(math.isfinite, values)), values
        if self._num_objectives == 1:
            self._storage.set_trial_intermediate_value(trial._trial_id, epoch, values[0])
        else:
            self._storage.set_trial_user_attr(trial._trial_id, f"{_VALUES}{epoch}", list(values))

    def _close(self, trial: Any, state: str, epochs: int, seconds: float, reason: str | None = None) -> None:
        from optuna.trial import TrialState

        for key, value in {"epochs": epochs, "seconds": seconds, "reason": reason}.items():
            if value is not None:
                self._storage.set_trial_user_attr(trial._trial_id, key, value)
        values = list(self.curve(self._trial(trial.number)).values())[-1] if state == "COMPLETE" else None
        self.optuna.tell(trial.number, values, TrialState[state])
        self._keep()

    def _trial(self, number: int) -> Any:
        return self.trials()[number]
