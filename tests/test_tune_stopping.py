"""Early stopping: each trial judged once at each rung against all that the study has seen, wherever a driver was killed."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from neural_hamilton.physics import InputError
from neural_hamilton.tune.sweeps.fronts import front_numbers, order_by_fronts
from neural_hamilton.tune.sweeps.samplers import make_sampler
from neural_hamilton.tune.sweeps.search_spaces import Choices, Range
from neural_hamilton.tune.sweeps.stopping import STOPPERS, Stopper
from neural_hamilton.tune.sweeps.study import Study

BUDGET, GRACE = 20, 2
SPACE = {"rate": Range(1e-4, 1e-2, log=True, integer=False), "width": Choices((16, 32))}


class Killed(BaseException):
    """The driver is gone."""


class MortalStorage(optuna.storages.InMemoryStorage):
    """Kills its driver before a chosen write, and checks each verdict as it is written down."""

    def __init__(self, stopper: Stopper) -> None:
        super().__init__()
        self.stopper, self.writes_left, self.verdicts = stopper, float("inf"), 0

    def _write(self) -> None:
        if self.writes_left <= 0:
            raise Killed
        self.writes_left -= 1

    def _check_verdict(self, trial_id: int, epoch: int, kept: bool) -> None:
        curves = {trial.number: {e: (v,) for e, v in trial.intermediate_values.items()} for trial in self.get_all_trials(0)}
        trial = self.get_trial(trial_id)
        assert epoch in self.stopper.rungs(trial.number)
        assert epoch > trial.user_attrs.get("kept", 0)  # once
        assert self.stopper.keeps(trial.number, epoch, curves) is kept
        self.verdicts += 1

    def create_new_trial(self, *args: Any, **kwargs: Any) -> int:
        self._write()
        return super().create_new_trial(*args, **kwargs)

    def set_trial_param(self, *args: Any, **kwargs: Any) -> None:
        self._write()
        super().set_trial_param(*args, **kwargs)

    def set_trial_intermediate_value(self, *args: Any, **kwargs: Any) -> None:
        self._write()
        super().set_trial_intermediate_value(*args, **kwargs)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write()
        if key == "kept":
            self._check_verdict(trial_id, value, kept=True)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        self._write()
        if state == TrialState.PRUNED:
            self._check_verdict(trial_id, self.get_trial(trial_id).last_step or 0, kept=False)
        return super().set_trial_state_values(trial_id, state, values)


def curve_of(number: int) -> list[float]:
    """The best loss so far after each epoch of a simulated trial. Curves cross, so early ranks mislead as real ones do."""
    rng = np.random.default_rng(number)
    floor, rate = 10 ** rng.uniform(-3, -1), rng.uniform(0.1, 0.8)
    noisy = (floor + np.exp(-rate * np.arange(1, BUDGET + 1))) * rng.lognormal(0, 0.05, BUDGET)
    return [float(loss) for loss in np.minimum.accumulate(noisy)]


def drive(
    storage: optuna.storages.BaseStorage, stopper: Stopper, trained: dict[int, int], count: int, concurrent: int, order: Any
) -> Study:
    """What a driver does until `count` trials have ended. `trained` is what the run folders hold: epochs that outlive the driver."""
    study = Study(storage, SPACE, stopper, lambda held: optuna.samplers.RandomSampler(seed=held))
    missing = count - len(study.ended())
    running: dict[int, bool] = {}  # whether the trial has reported to this driver
    while missing > 0 or running:
        while missing > 0 and len(running) < concurrent:
            running[study.propose().number] = False
            missing -= 1
        number = order.choice(sorted(running))
        losses, left_off = curve_of(number), trained.get(number, 0)
        if running[number] or not left_off:
            trained[number] = left_off = min(left_off + 1, BUDGET)
            report = range(left_off, left_off + 1)
        else:
            report = range(1, left_off + 1)  # first, where it left off
        running[number] = True
        goes_on = study.report(number, {epoch: (losses[epoch - 1],) for epoch in report}, 0.0)
        if not goes_on or left_off == BUDGET:
            study.end(number, left_off, 0.0)
            del running[number]
    return study


def lives(draw: random.Random) -> Iterator[float]:
    """The numbers of writes after which drivers are killed; the last driver lives."""
    for _ in range(draw.randrange(1, 30)):
        yield draw.randrange(0, 60)
    yield float("inf")


def drive_and_kill(name: str, concurrent: int, count: int, seed: int) -> tuple[MortalStorage, dict[int, str]]:
    stopper, order, trained = STOPPERS[name](BUDGET, GRACE), random.Random(seed), {}
    storage = MortalStorage(stopper)
    for life in lives(order) if seed else [float("inf")]:
        storage.writes_left = life
        try:
            ended = drive(storage, stopper, trained, count, concurrent, order).ended()
        except Killed:
            continue
    return storage, {trial.number: trial.state.name for trial in ended}


@given(name=st.sampled_from(sorted(STOPPERS)), concurrent=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_every_trial_is_judged_once_at_every_rung_whatever_is_killed(name: str, concurrent: int, seed: int) -> None:
    storage, states = drive_and_kill(name, concurrent, 12, seed)
    assert set(states) == set(range(12))  # exactly the trials asked for, and no parameters drawn in vain
    assert set(states.values()) <= {"COMPLETE", "PRUNED"}
    passed = 0
    for trial in storage.get_all_trials(0):
        judged = [rung for rung in storage.stopper.rungs(trial.number) if rung <= trial.last_step]
        passed += len(judged)
        assert list(trial.intermediate_values.values()) == curve_of(trial.number)[: trial.last_step]
        assert trial.value == trial.intermediate_values[trial.last_step]
        if trial.state == TrialState.COMPLETE:
            assert trial.last_step == BUDGET
        else:
            assert judged.pop() == trial.last_step
        assert trial.user_attrs.get("kept", 0) == max(judged, default=0)
    assert storage.verdicts == passed


@pytest.mark.parametrize("name", sorted(STOPPERS))
def test_kills_change_no_decision(name: str) -> None:
    undisturbed = drive_and_kill(name, 1, 30, 0)[1]
    assert ("PRUNED" in undisturbed.values()) is (name != "none")
    for seed in range(1, 8):
        assert drive_and_kill(name, 1, 30, seed)[1] == undisturbed


def test_as_many_trials_finish_after_kills_as_without() -> None:
    """Two trials at a time finish in another order after a kill, so single decisions differ and their number does not."""
    finished = [list(drive_and_kill("asha", 2, 60, seed)[1].values()).count("COMPLETE") for seed in range(8)]
    assert 0.7 * finished[0] <= np.mean(finished[1:]) <= 1.3 * finished[0]


@pytest.mark.parametrize("name", sorted(STOPPERS))
def test_one_trial_at_a_time_is_one_call(name: str) -> None:
    stopper = STOPPERS[name](BUDGET, GRACE)
    at_once = drive(optuna.storages.InMemoryStorage(), stopper, {}, 20, 1, random.Random(0)).ended()
    storage, trained = optuna.storages.InMemoryStorage(), {}
    for count in range(1, 21):
        extended = drive(storage, stopper, trained, count, 1, random.Random(0)).ended()
    assert [(trial.number, trial.state, trial.last_step) for trial in extended] == [
        (trial.number, trial.state, trial.last_step) for trial in at_once
    ]


def test_rungs_lie_below_the_budget() -> None:
    assert STOPPERS["asha"](20, 2).brackets == ((2, 6, 18),)
    assert STOPPERS["asha"](18, 2).brackets == ((2, 6),)  # at 18 a trial is finished
    assert STOPPERS["median"](6, 3).brackets == ((3, 4, 5),)
    assert STOPPERS["hyperband"](20, 2).brackets == ((2, 6, 18), (6, 18), (18,), ())
    assert STOPPERS["none"](20, 2).brackets == ((),)
    assert STOPPERS["asha"](3, 3).brackets == ((),)


def test_brackets_are_compared_within_themselves() -> None:
    stopper = STOPPERS["hyperband"](20, 2)
    brackets = [stopper.rungs(number) for number in range(1000)]
    for bracket, weight in zip(stopper.brackets, stopper.weights, strict=True):
        assert brackets.count(bracket) == pytest.approx(1000 * weight / sum(stopper.weights), rel=0.25)
    bracket = brackets[0]
    rival = next(number for number in range(1, 1000) if brackets[number] == bracket)
    other = next(number for number in range(1, 1000) if brackets[number] != bracket)
    assert not stopper.keeps(0, 18, {0: {18: (2.0,)}, rival: {18: (1.0,)}})
    assert stopper.keeps(0, 18, {0: {18: (2.0,)}, other: {18: (1.0,)}})


def test_a_failed_trial_keeps_its_reason_and_its_curve() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = Study(storage, SPACE, STOPPERS["asha"](BUDGET, GRACE), lambda held: optuna.samplers.RandomSampler(seed=held))
    for reason in ("the loss is not finite", None):
        number = study.propose().number
        if reason:
            assert study.report(number, {1: (0.5,)}, 1.0)
        study.end(number, 1, 1.0, reason)
    diverged, silent = study.ended()
    assert (diverged.state, diverged.value, diverged.intermediate_values) == (TrialState.FAIL, None, {1: 0.5})
    assert diverged.user_attrs["reason"] == "the loss is not finite"
    assert silent.user_attrs["reason"] == "it ended before its first epoch"


def test_what_cannot_be_built_is_drawn_again() -> None:
    def why_not(parameters: dict[str, Any]) -> str | None:
        return "32 is too wide" if parameters["width"] == 32 else None

    storage, sampler = optuna.storages.InMemoryStorage(), optuna.samplers.RandomSampler(seed=0)
    study = Study(storage, SPACE, STOPPERS["none"](1, 1), lambda held: sampler, why_not)
    for _ in range(10):
        number = study.propose().number
        study.report(number, {1: (1.0,)}, 0.0)
        study.end(number, 1, 0.0)
    assert [trial.params["width"] for trial in study.ended()] == 10 * [16]
    redrawn = [trial for trial in study.trials() if trial.params["width"] == 32]
    assert redrawn
    assert all(trial.state == TrialState.FAIL and trial.user_attrs["reason"] == "32 is too wide" for trial in redrawn)
    never = Study(storage, SPACE, STOPPERS["none"](1, 1), lambda held: sampler, lambda _: "it is a Tuesday")
    with pytest.raises(InputError, match="100 configurations in a row that cannot be built, the last because it is a Tuesday"):
        never.propose()
    assert len(never.ended()) == 10


def points(rows: int, columns: int) -> st.SearchStrategy:
    return st.lists(st.lists(st.integers(0, 5).map(float), min_size=columns, max_size=columns), min_size=1, max_size=rows).map(np.array)


@given(values=points(12, 3))
def test_fronts_are_those_of_optuna(values: np.ndarray) -> None:
    fronts, order = front_numbers(values), order_by_fronts(values)
    assert sorted(order) == list(range(len(values)))
    assert fronts[order].tolist() == sorted(fronts)
    study = optuna.create_study(directions=["minimize"] * 3)
    study.add_trials([optuna.trial.create_trial(values=row.tolist()) for row in values])
    assert {trial.number for trial in study.best_trials} == set(np.flatnonzero(fronts == 0))


def test_a_front_is_ordered_from_far_apart() -> None:
    line = np.array([[float(x), 10.0 - x] for x in range(11)])
    assert order_by_fronts(line)[:3] == [0, 10, 5]
    worse = line + 0.5
    assert set(order_by_fronts(np.concatenate([worse, line]))[:11]) == set(range(11, 22))


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
def test_several_objectives_are_stopped_by_fronts(sampler: str) -> None:
    """Each trial trades one objective for the other, and half of them are worse in both."""
    stopper, storage = STOPPERS["asha"](BUDGET, GRACE), optuna.storages.InMemoryStorage()
    study = Study(storage, SPACE, stopper, lambda held: make_sampler(sampler, SPACE, 30, 0, held, 2), num_objectives=2)
    rng, worse = np.random.default_rng(0), {}
    for _ in range(30):
        number = study.propose().number
        trade, worse[number] = rng.random(), bool(rng.integers(2))
        for epoch in (*stopper.rungs(number), BUDGET):
            if not study.report(number, {epoch: (trade + worse[number], 1 - trade + worse[number])}, 1.0):
                break
        study.end(number, BUDGET, 1.0)
    finished = [trial.number for trial in study.ended() if trial.state == TrialState.COMPLETE]
    stopped = [trial for trial in study.ended() if trial.state == TrialState.PRUNED]
    assert len(finished) + len(stopped) == 30
    assert np.mean([worse[trial.number] for trial in stopped]) > np.mean([worse[number] for number in finished])
    assert all(trial.user_attrs["epochs"] in stopper.rungs(trial.number) and not trial.intermediate_values for trial in stopped)


def test_a_new_study_begins_with_what_is_known() -> None:
    storage, known = optuna.storages.InMemoryStorage(), {"rate": 3e-3, "width": 32}
    for _ in range(2):  # drivers
        study = Study(storage, SPACE, STOPPERS["none"](1, 1), lambda held: optuna.samplers.RandomSampler(seed=held), start=[known])
    proposals = [study.propose().parameters for _ in range(3)]
    assert proposals[0] == known and known not in proposals[1:]
