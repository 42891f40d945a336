"""The study of a sweep: which trials were proposed, what they have reported and how they ended. Its record is the Optuna storage.

A trial is written down in this order, so that a driver killed between any two writes leaves nothing to guess:

    its parameters, then user attribute `ready`     they can be built, and it has a run folder from here on
    the best loss so far after each epoch           intermediate values
    `kept`, the last rung that it passed            a rung beyond it has not been judged
    `seconds` and `reason`, then its state          COMPLETE, PRUNED when stopped early, FAIL for a reason

Trials found running belong to a driver that is gone, and go on under the same number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..physics import InputError
from .search_spaces import Space
from .stopping import Stopper

STORAGE_FILE = "optuna.db"
_STUDY_NAME = "sweep"
_MOST_DRAWS, _DRAWS_OF_SAMPLER = 100, 10  # of one trial; those after the sampler's own are random


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number and its parameters."""

    number: int
    parameters: dict[str, Any]


def open_storage(out: Path) -> Any:
    """The SQLite file of a sweep. Its locks, unlike a journal file's, end with the process that held them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.storages.RDBStorage(f"sqlite:///{out / STORAGE_FILE}")


class Study:
    """`make_sampler` receives the number of trials that the storage holds: sampling continues instead of repeating itself.

    `why_not` returns why a network with these parameters cannot be built, or None. Such parameters are drawn again.
    """

    def __init__(
        self,
        storage: Any,
        space: Space,
        stopper: Stopper,
        make_sampler: Callable[[int], Any],
        why_not: Callable[[dict[str, Any]], str | None] = lambda _: None,
    ) -> None:
        import optuna

        self._storage, self.space, self._stopper, self._why_not = storage, space, stopper, why_not
        self._study = optuna.create_study(study_name=_STUDY_NAME, storage=storage, direction="minimize", load_if_exists=True)
        self._study.sampler = make_sampler(len(self.trials()))
        running = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        self._left = [trial._trial_id for trial in running]

    def trials(self) -> list[Any]:
        return self._study.get_trials(deepcopy=False)

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

        usual, reason = self._study.sampler, ""
        try:
            for draw in range(_MOST_DRAWS):
                if draw == _DRAWS_OF_SAMPLER and not isinstance(usual, optuna.samplers.GridSampler):
                    self._study.sampler = optuna.samplers.RandomSampler(seed=len(self.trials()))  # one that learns may insist
                trial = self._next_trial()
                for key, domain in self.space.items():
                    domain.suggest(trial, key)  # what was drawn before an interruption stays
                reason = self._why_not(trial.params)
                if reason is None:
                    trial.set_user_attr("ready", True)
                    return Proposal(trial.number, trial.params)
                trial.set_user_attr("reason", reason)
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        finally:
            self._study.sampler = usual
        raise InputError(
            f"sweep.space gave {_MOST_DRAWS} configurations in a row that cannot be built, the last because {reason}; narrow it"
        )

    def _next_trial(self) -> Any:
        import optuna

        if self._left:
            return optuna.trial.Trial(self._study, self._left.pop(0))
        if len(self.trials()) >= getattr(self._study.sampler, "size", math.inf):
            raise InputError("the grid of sweep.space has fewer combinations that can be built than --trials asks for")
        return self._study.ask()

    def report(self, number: int, epoch: int, losses: Sequence[float], seconds: float) -> bool:
        """Record the best losses so far after the latest epochs, of which the last is `epoch`; returns whether the trial goes on.

        Epochs that the record holds already change nothing, and a rung is judged once.
        """
        trial = self._trial(number)
        if trial.state.is_finished():
            return False
        rungs, kept = self._stopper.rungs(number), trial.user_attrs.get("kept", 0)
        for step, loss in enumerate(losses, start=epoch + 1 - len(losses)):
            if step not in trial.intermediate_values:
                self._storage.set_trial_intermediate_value(trial._trial_id, step, loss)
            if step in rungs and step > kept:
                if not self._stopper.keeps(number, step, {other.number: other.intermediate_values for other in self.trials()}):
                    self._close(trial, "PRUNED", seconds)
                    return False
                self._storage.set_trial_user_attr(trial._trial_id, "kept", step)
        return True

    def end(self, number: int, seconds: float, reason: str | None = None) -> None:
        """Record the end of a trial; `reason` says why it failed. Nothing changes where it was stopped early."""
        trial = self._trial(number)
        if trial.state.is_finished():
            return
        if reason is None and not trial.intermediate_values:
            reason = "it ended before its first epoch"
        self._close(trial, "FAIL" if reason else "COMPLETE", seconds, reason)

    def _close(self, trial: Any, state: str, seconds: float, reason: str | None = None) -> None:
        from optuna.trial import TrialState

        self._storage.set_trial_user_attr(trial._trial_id, "seconds", seconds)
        if reason is not None:
            self._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        trial = self._trial(trial.number)
        value = trial.intermediate_values[trial.last_step] if state == "COMPLETE" else None
        self._study.tell(trial.number, value, TrialState[state])

    def _trial(self, number: int) -> Any:
        return self.trials()[number]
