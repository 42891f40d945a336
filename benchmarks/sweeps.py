"""`python -m benchmarks.sweeps [NAME ...] [--seeds 0,1,2,3,4]`: what sampler and early stopping are worth on a small problem.

A small DeepONet on 300 rows of `paper`, 24 trials of at most 9 epochs, one at a time and without Ray, so that a sweep differs from another
in its settings and seed alone. A quarter of a minute for each sweep on one core; results go to benchmarks/results/sweeps.json one by one.
NAME `overhead` is a sweep of 40 such trials on Ray, and the time that it spends on other things than training: run it on idle cores.
"""

import argparse
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna._hypervolume import compute_hypervolume
from scipy.stats import spearmanr

from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import Config, load_config
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.ray_runtime import connect
from neural_hamilton.tune.folders import resolve
from neural_hamilton.tune.sweeps.resources import Share, cluster_nodes, share_cluster
from neural_hamilton.tune.sweeps.runs import TrialWork, trained
from neural_hamilton.tune.sweeps.samplers import make_sampler
from neural_hamilton.tune.sweeps.search_spaces import parse_space
from neural_hamilton.tune.sweeps.study import STUDY_NAME, Study, open_database
from neural_hamilton.tune.sweeps.sweep import stopper_of, sweep, why_not

from .timing import add_line, read_lines, whole_numbers

TRIALS, EPOCHS = 24, 9
BASE: dict[str, Any] = {
    "data.train": 300,
    "data.val": 100,
    "data.sensors": 50,
    "data.times": 50,
    "architecture.name": "deeponet",
    "training.epochs": EPOCHS,
    "sweep.space": {
        "training.learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
        "training.batch_size": {"choices": [10, 20, 40]},
        "architecture.width": {"choices": [16, 32, 64]},
        "architecture.num_layers": {"low": 1, "high": 4},
        "architecture.num_channels": {"choices": [8, 16, 32]},
        "architecture.num_frequencies": {"choices": [4, 8]},
    },
}
_PARETO = {"sweep.objectives": ["validation_loss", "num_parameters"]}
SWEEPS: dict[str, dict[str, Any]] = {
    "tpe": {"sweep.sampler": "tpe", "sweep.stopper": "none"},
    "random": {"sweep.sampler": "random", "sweep.stopper": "none"},
    "tpe, asha": {"sweep.sampler": "tpe", "sweep.stopper": "asha"},
    "pareto": _PARETO | {"sweep.sampler": "tpe", "sweep.stopper": "none"},
    "pareto, asha": _PARETO | {"sweep.sampler": "tpe", "sweep.stopper": "asha"},  # as many epochs, so more trials
    "overhead": {"sweep.sampler": "tpe", "sweep.stopper": "asha"},
}
_RAY_TRIALS, _FIRST_TRIALS = 40, 6  # the first of them start workers
_WORST = np.log10([100.0, 1e7])  # the reference point of hypervolumes: a loss and a number of parameters that no trial reaches


class _Stopped(Exception):
    """Ends a trial that is stopped early."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description="what sampler and early stopping are worth")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {'; '.join(SWEEPS)}")
    parser.add_argument(
        "--seeds", default="0,1,2,3,4", type=whole_numbers, help="comma-separated seeds of the sweeps; the data is the same"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(SWEEPS):
        parser.error(f"NAME is {sorted(unknown)[0]!r}; choose from {'; '.join(SWEEPS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch) / "dataset"
        generate(dataset, load_config(None, BASE).data, local=True)
        for name in options.names or SWEEPS:
            for seed in options.seeds:
                measure = measure_overhead if name == "overhead" else _measure
                line = measure(name, seed, dataset, Path(scratch) / "runs")
                add_line("sweeps", line, ("name", "seed"), base=BASE, trials=TRIALS)
                print(f"{name:14} seed {seed}  {line}", flush=True)
    print("\n".join(summarise(read_lines("sweeps"))))
    return 0


def search(config: Config, dataset: Path, runs: Path, num_trials: int | None, num_epochs: int | None) -> Study:
    """A sweep of `num_trials` trials, or until `num_epochs` epochs are trained, in this process."""
    config = resolve(config, dataset)
    settings, space = config.sweep, parse_space(config)
    count = num_trials or TRIALS
    sampler = partial(make_sampler, settings.sampler, space, count, settings.seed, num_objectives=len(settings.objectives))
    refusal = partial(why_not, config, dataset, runs)
    storage = optuna.storages.InMemoryStorage()
    study = Study(storage, space, stopper_of(config), sampler, refusal, num_objectives=len(settings.objectives))
    while (num_trials is None or len(study.ended()) < num_trials) and (num_epochs is None or epochs_of(study) < num_epochs):
        proposal, reason = study.propose(), None
        run = runs / str(proposal.number)
        rungs = study.stopper.rungs(proposal.number)

        def report(line: dict[str, Any], number: int = proposal.number) -> None:
            if not study.report(number, dict(line["values"]), line["seconds"]):
                raise _Stopped

        work = TrialWork(config.override(proposal.parameters), dataset, run, rungs, Share(1, 1, 1, 0), report)
        try:
            work.prepare()
            work()
        except _Stopped:
            pass
        except InputError as error:
            reason = str(error)
        study.end(proposal.number, *trained(run, 1), reason)
        shutil.rmtree(run)
    return study


def epochs_of(study: Study) -> int:
    """The epochs of all trials together."""
    return sum(trial.user_attrs["epochs"] for trial in study.ended())


def _measure(name: str, seed: int, dataset: Path, runs: Path) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = load_config(None, BASE | SWEEPS[name] | {"sweep.seed": seed})
    started = time.perf_counter()
    budget = {"num_trials": None, "num_epochs": TRIALS * EPOCHS} if name == "pareto, asha" else {"num_trials": TRIALS, "num_epochs": None}
    study = search(config, dataset, runs, **budget)
    line = {
        "name": name,
        "seed": seed,
        "changes": SWEEPS[name],
        "trials": len(study.ended()),
        "epochs": epochs_of(study),
        "seconds": time.perf_counter() - started,
    }
    finished = [trial for trial in study.ended() if trial.state.name == "COMPLETE"]
    if len(config.sweep.objectives) > 1:
        points = np.log10([trial.values for trial in finished])
        return line | {"hypervolume": float(compute_hypervolume(points, _WORST))}
    line |= {"validation_loss": min(trial.value for trial in study.ended() if trial.value is not None)}
    if config.sweep.stopper == "none":
        line["rank_correlation"] = {
            str(epoch): float(spearmanr([t.intermediate_values[epoch] for t in finished], [t.value for t in finished]).statistic)
            for epoch in range(1, EPOCHS)
        }
    return line


def measure_overhead(name: str, seed: int, dataset: Path, folder: Path) -> dict[str, Any]:
    """The seconds from one trial's end to the next in a slot of a sweep on Ray, and how many of them are not epochs of training."""
    config = load_config(None, BASE | SWEEPS[name] | {"sweep.seed": seed})
    out = folder / name
    sweep(config, dataset, out, _RAY_TRIALS)
    slots = share_cluster(cluster_nodes(connect()), config.sweep, _RAY_TRIALS).concurrent
    study = optuna.load_study(study_name=STUDY_NAME, storage=open_database(out).storage)
    trials = sorted(study.trials, key=lambda trial: trial.datetime_complete)
    steady = trials[_FIRST_TRIALS:]
    elapsed = (steady[-1].datetime_complete - trials[_FIRST_TRIALS - 1].datetime_complete).total_seconds() * slots / len(steady)
    training = sum(trial.user_attrs["seconds"] for trial in steady) / len(steady)
    shutil.rmtree(out)
    return {
        "name": name,
        "seed": seed,
        "changes": SWEEPS[name],
        "trials": _RAY_TRIALS,
        "slots": slots,
        "seconds_per_trial": elapsed,
        "training_seconds_per_trial": training,
        "overhead_seconds": (elapsed - training) / slots,  # by the clock: what a sweep takes longer for each trial
    }


def summarise(lines: list[dict[str, Any]]) -> list[str]:
    """The measurements in sentences."""
    of = {name: {line["seed"]: line for line in lines if line["name"] == name} for name in SWEEPS}

    def ratio(key: str, first: str, second: str) -> str:
        ratios = [of[first][seed][key] / of[second][seed][key] for seed in of[first] if seed in of[second]]
        return _spread(ratios)

    correlations = [line["rank_correlation"] for name in ("tpe", "random") for line in of[name].values()]
    by_epoch = {epoch: float(np.median([each[epoch] for each in correlations])) for epoch in (correlations[0] if correlations else ())}
    overheads = [line["overhead_seconds"] for line in of["overhead"].values()]
    return [
        f"best loss of tpe over that of random: {ratio('validation_loss', 'tpe', 'random')}",
        f"best loss of tpe with asha over that without: {ratio('validation_loss', 'tpe, asha', 'tpe')}",
        f"epochs of tpe with asha over those without: {ratio('epochs', 'tpe, asha', 'tpe')}",
        f"hypervolume with asha over that without, as many epochs: {ratio('hypervolume', 'pareto, asha', 'pareto')}",
        f"what a sweep on Ray takes longer for each trial, in seconds: {_spread(overheads)}",
        "rank correlation with the final loss: " + ", ".join(f"epoch {epoch} {value:.2f}" for epoch, value in by_epoch.items()),
    ]


def _spread(values: list[float]) -> str:
    return f"{np.median(values):.3g} ({min(values):.3g} to {max(values):.3g} over {len(values)} seeds)" if values else "not measured"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
