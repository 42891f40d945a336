"""The cost of a sweep on this machine, from a few steps of networks of its space."""

import heapq
import json
import os
from functools import partial
from typing import Any

import numpy as np
import torch

from ...physics import InputError
from ...platform.config import Config
from ...platform.machine import torch_threads
from ...platform.planning import RAY_STARTUP_SECONDS, STARTUP_SECONDS, plan_train
from ...platform.storage import Location
from ..folders import claimed, record_cost, resolve
from .leaderboard import LEADERBOARD_FILE
from .resources import share_cluster
from .samplers import num_startup_trials
from .search_spaces import parse_space
from .stopping import STOPPERS, Stopper
from .study import Study
from .sweep import check_sweep, stopper_of, trial_epochs, why_not

_SAMPLED_TRIALS = 6  # networks of the space that are timed
_SIMULATIONS = 20  # of early stopping
# A trial that a learning sampler proposes is as good as the best of this many random ones, so that more trials pass a rung than at random.
# Simulated so, ASHA leaves as many epochs as TPE's sweeps took in benchmarks/sweeps.py.
_BEST_OF = 3
_NOT_LEARNING = ("random", "grid")  # samplers
_TRIAL_SECONDS, _REPORT_SECONDS = 0.5, 0.03  # what a trial and an epoch cost beside training: Ray Tune, the storage, outputs


def plan_sweep(config: Config, dataset: Location, num_trials: int, out: Location | None = None) -> dict[str, Any]:
    """The plan of what a sweep has left to do, as `plan_trials` gives it, kept in its folder `out`; InputError as in `sweep`."""
    dataset = dataset.absolute()
    search = check_sweep(config, dataset, num_trials)
    if out is None:
        return plan_trials(config, dataset, num_trials)
    share_cluster([_this_machine()], search.config.sweep, num_trials)  # refused, if it must be, before anything is written
    with claimed(out.absolute(), search.identity(dataset)):
        plan = plan_trials(config, dataset, max(0, num_trials - num_ended(out)))
        record_cost(out, plan={"trials": plan["trials"], "seconds": plan["seconds"]})
    return plan


def num_ended(out: Location) -> int:
    """The trials of a sweep's folder that ended."""
    table = out / f"{LEADERBOARD_FILE}.json"
    try:
        return len(json.loads(table.read_text(encoding="utf-8"))) if table.exists() else 0
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{table} is not JSON; delete it, and the sweep writes it again") from None


def plan_trials(config: Config, dataset: Location, num_trials: int) -> dict[str, Any]:
    """Time, memory and disk of trials of a sweep, and how many epochs early stopping leaves.

    A few networks drawn at random from the space are timed, with as many threads as a trial has. Early stopping is simulated with
    trials that keep their order from rung to rung.
    """
    resolved = resolve(config, dataset)
    settings, budget, stopper = resolved.sweep, trial_epochs(resolved), stopper_of(resolved)
    share = share_cluster([_this_machine()], settings, max(1, num_trials))
    with torch_threads(share.cpus):
        networks = [plan_train(trial, dataset) for trial in _sample_trials(resolved, dataset)]
    epoch, setup, disk, memory = (
        float(np.mean([network[key] for network in networks]))
        for key in ("seconds_per_epoch", "seconds_setup", "disk_bytes", "memory_bytes")
    )
    epochs, lengths = simulate_stopping(
        stopper, num_trials, share.concurrent, budget, len(settings.objectives), learns=settings.sampler not in _NOT_LEARNING
    )
    per_trial, per_epoch = setup + _TRIAL_SECONDS, settings.seeds * epoch + _REPORT_SECONDS
    seconds = RAY_STARTUP_SECONDS + STARTUP_SECONDS + lengths * per_epoch + -(-num_trials // share.concurrent) * settings.seeds * per_trial
    finals = settings.finalists * settings.final_seeds
    seconds += -(-finals // share.concurrent) * (setup + resolved.training.epochs * epoch)
    checkpoints = resolved.training.keep_checkpoints + 1
    return {
        "trials": num_trials,
        "concurrent": share.concurrent,
        "workers": share.workers,
        "cpus_per_worker": share.cpus,
        "gpus_per_worker": share.gpus,
        "epochs": round(epochs),
        "epochs_without_stopping": num_trials * budget,
        "seconds_per_epoch": epoch,
        "seconds": seconds,
        "disk_bytes": round(disk * (share.concurrent + num_trials / (3 * checkpoints))),  # a model beside two moments a weight
        "memory_bytes": round(share.concurrent * share.workers * memory),
    }


def _this_machine() -> dict[str, float]:
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def simulate_stopping(
    stopper: Stopper, num_trials: int, concurrent: int, budget: int, num_objectives: int = 1, *, learns: bool = False
) -> tuple[float, float]:
    """Epochs of all trials together, and of the longest chain of trials one after another, `concurrent` at a time: means of simulations.

    `learns`: the trials get better once a sampler has seen some.
    """
    generators = [np.random.default_rng(seed) for seed in range(_SIMULATIONS)]
    qualities = [_draw_quality(generator, num_trials, num_objectives, learns) for generator in generators]
    total, longest = np.mean([_simulate(stopper, concurrent, budget, quality) for quality in qualities], axis=0)
    return float(total), float(longest)


def _draw_quality(generator: np.random.Generator, num_trials: int, num_objectives: int, learns: bool) -> np.ndarray:
    draws = generator.random((_BEST_OF, num_trials, num_objectives))
    startup = num_startup_trials(num_trials) if learns else num_trials
    return np.where(np.arange(num_trials)[:, None] < startup, draws[0], draws.min(axis=0))


def _simulate(stopper: Stopper, concurrent: int, budget: int, quality: np.ndarray) -> tuple[int, float]:
    num_trials = len(quality)
    curves: dict[int, dict[int, tuple[float, ...]]] = {}
    # Each entry is a trial at an epoch, and when it got there.
    running = [(0.0, number, 0) for number in range(min(concurrent, num_trials))]
    waiting, total, now = iter(range(len(running), num_trials)), 0, 0.0
    while running:
        now, number, epoch = heapq.heappop(running)
        curves.setdefault(number, {})[epoch] = tuple(quality[number])
        rungs = stopper.rungs(number)
        if epoch == budget or (epoch in rungs and not stopper.keeps(number, epoch, curves)):
            total += epoch
            number, epoch = next(waiting, None), 0
        if number is not None:
            target = min((rung for rung in stopper.rungs(number) if rung > epoch), default=budget)
            heapq.heappush(running, (now + target - epoch, number, target))
    return total, now


def _sample_trials(config: Config, dataset: Location) -> list[Config]:
    import optuna

    def sampler(held: int) -> Any:
        return optuna.samplers.RandomSampler(seed=config.sweep.seed + held)

    space = {key: domain for key, domain in parse_space(config).items() if not key.startswith("data.")}
    refusal = partial(why_not, config, dataset, dataset)
    study = Study(optuna.storages.InMemoryStorage(), space, STOPPERS["none"](1, 1), sampler, refusal)
    budget = {"training.epochs": trial_epochs(config)}
    return [config.override(budget | study.propose().parameters) for _ in range(_SAMPLED_TRIALS)]
