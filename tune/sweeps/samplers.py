"""Samplers by name: Optuna's own, set for the number of trials of the sweep."""

import math
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...physics import InputError
from .search_spaces import Choices, Range, Space

_MOST_STARTUP_TRIALS, _LARGEST_POPULATION = 10, 50  # Optuna's defaults, for sweeps that are long enough


def make_sampler(name: str, space: Space, num_trials: int, seed: int, num_held: int = 0, num_objectives: int = 1) -> Any:
    """The sampler `name` for a sweep of `num_trials` trials in all, of which the storage holds `num_held`.

    Raises
    ------
    InputError
        Where the sampler cannot search this space, or needs a package that is not installed.
    """
    from optuna import samplers

    # A sampler seeded alike in every driver would propose its first trials again after an interruption.
    fresh = int(np.random.SeedSequence([seed, num_held]).generate_state(1)[0])
    startup = num_startup_trials(num_trials)
    if name == "tpe":
        return samplers.TPESampler(n_startup_trials=startup, seed=fresh)
    if name == "random":
        return samplers.RandomSampler(seed=fresh)
    if name == "gp":
        return samplers.GPSampler(n_startup_trials=startup, seed=fresh)
    if name == "nsga2":
        return samplers.NSGAIISampler(population_size=max(4, min(_LARGEST_POPULATION, num_trials // 4)), seed=fresh)
    if name == "cmaes":
        _check_cmaes(space, num_objectives)
        return samplers.CmaEsSampler(n_startup_trials=startup, warn_independent_sampling=False, seed=fresh)
    return _grid(space, num_trials, seed)


def num_startup_trials(num_trials: int) -> int:
    """The random trials of a sweep of `num_trials`, before there is something to learn from."""
    return max(2, min(_MOST_STARTUP_TRIALS, num_trials // 4))


def _check_cmaes(space: Space, num_objectives: int) -> None:
    if num_objectives > 1:
        raise InputError(f"sweep.sampler is 'cmaes', which has one objective, not {num_objectives}: choose another sampler")
    if find_spec("cmaes") is None:
        raise InputError("sweep.sampler is 'cmaes', which needs the package cmaes: pip install cmaes, or choose another sampler")
    ranges = [key for key, domain in space.items() if isinstance(domain, Range)]
    if len(ranges) < 2:
        raise InputError(
            f"sweep.sampler is 'cmaes', which searches ranges, two or more; sweep.space has {len(ranges)}: choose another sampler"
        )


def _grid(space: Space, num_trials: int, seed: int) -> Any:
    from optuna.samplers import GridSampler

    class Grid(GridSampler):
        size = 0  # combinations

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            pass  # Optuna's would stop the study, which only its own loop allows

    conditional = [key for key, domain in space.items() if domain.when]
    if conditional:
        raise InputError(f"sweep.sampler is 'grid', and sweep.space {conditional[0]} depends on others by `when`: choose another sampler")
    values = {key: _values(key, domain) for key, domain in space.items()}
    size = math.prod(len(each) for each in values.values())
    if num_trials > size:
        raise InputError(f"{num_trials} trials are more than the {size} combinations in the grid of sweep.space: ask for at most {size}")
    grid = Grid(values, seed)  # in an order that must not change from driver to driver
    grid.size = size
    return grid


def _values(key: str, domain: Range | Choices) -> list[Any]:
    if isinstance(domain, Choices):
        return list(domain.values)
    if not domain.integer:
        raise InputError(f"sweep.sampler is 'grid', and sweep.space {key} is a range; give it choices, such as {{choices: [0.001, 0.01]}}")
    return list(range(int(domain.low), int(domain.high) + 1))
