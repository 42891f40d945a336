"""Samplers by name, as a sweep uses them: ask, tell, and go on in another driver."""

import importlib.util
import itertools
from typing import Any

import optuna
import pytest

from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import SweepConfig
from neural_hamilton.tune.sweeps import samplers
from neural_hamilton.tune.sweeps.samplers import make_sampler
from neural_hamilton.tune.sweeps.search_spaces import Choices, Range, Space
from neural_hamilton.tune.sweeps.stopping import STOPPERS
from neural_hamilton.tune.sweeps.study import Study

RANGES: Space = {"x": Range(-1.0, 1.0, log=False, integer=False), "y": Range(1e-4, 1.0, log=True, integer=False)}
GRID: Space = {"width": Range(3, 6, log=False, integer=True), "rate": Choices((0.1, 0.2, 0.3))}
NAMES = [name for name in SweepConfig.model_fields["sampler"].annotation.__args__ if name != "cmaes" or importlib.util.find_spec("cmaes")]


def search(storage: Any, name: str, space: Space, num_trials: int, calls: int = 1, seed: int = 0) -> list[Any]:
    """A sweep of a paraboloid in `calls` drivers; returns its trials."""
    for call in range(1, calls + 1):
        study = Study(storage, space, STOPPERS["none"](1, 1), lambda held: make_sampler(name, space, num_trials, seed, held))
        while len(study.ended()) < num_trials * call // calls:
            proposal = study.propose()
            loss = sum((float(value) - 0.3) ** 2 for value in proposal.parameters.values())
            study.report(proposal.number, {1: (loss,)}, 0.0)
            study.end(proposal.number, 1, 0.0)
    return study.ended()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cmaes"])
def test_a_sampler_proposes_different_trials_in_every_driver(name: str) -> None:
    trials = search(optuna.storages.InMemoryStorage(), name, GRID, 12, calls=4)
    points = [tuple(trial.params[key] for key in GRID) for trial in trials]
    assert len(points) == 12
    assert set(points) <= set(itertools.product((3, 4, 5, 6), (0.1, 0.2, 0.3)))
    assert len(set(points)) >= (12 if name == "grid" else 4)


def test_a_grid_is_searched_once_whatever_is_interrupted() -> None:
    storage = optuna.storages.InMemoryStorage()
    search(storage, "grid", GRID, 12, calls=3)
    study = Study(storage, GRID, STOPPERS["none"](1, 1), lambda held: make_sampler("grid", GRID, 12, 0, held))
    assert len({tuple(trial.params.values()) for trial in study.ended()}) == 12


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("grid", "random")])
def test_a_sampler_learns_from_the_trials_before(name: str) -> None:
    def median_of_best(sampler: str) -> float:
        runs = (search(optuna.storages.InMemoryStorage(), sampler, RANGES, 24, seed=seed) for seed in range(5))
        return sorted(min(trial.value for trial in run) for run in runs)[2]

    slack = 1.5 if name == "nsga2" else 1.0  # four generations are few
    assert median_of_best(name) <= slack * median_of_best("random")


def test_small_sweeps_begin_to_learn_early() -> None:
    assert [make_sampler("tpe", RANGES, trials, 0)._n_startup_trials for trials in (1, 4, 8, 20, 40, 100)] == [2, 2, 2, 5, 10, 10]


@pytest.mark.parametrize(
    ("name", "space", "trials", "words"),
    [
        ("grid", RANGES, 2, ["sweep.sampler is 'grid'", "sweep.space x", "choices"]),
        ("grid", GRID, 13, ["13 trials are more than", "12 combinations"]),
        ("cmaes", {"rate": Choices((0.1, 0.2))}, 2, ["'cmaes'", "two or more", "has 0"]),
    ],
)
def test_a_space_that_a_sampler_cannot_search_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, space: Space, trials: int, words: list[str]
) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda _: True)
    with pytest.raises(InputError) as refusal:
        make_sampler(name, space, trials, 0)
    for word in words:
        assert word in str(refusal.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install cmaes"):
        make_sampler("cmaes", RANGES, 2, 0)
