"""`python -m benchmarks.chaos [NAME ...] [--rows 40000,10000] [--seeds 0] [--models FOLDER ...]`: networks on random surfaces, one budget.

Each of the five architectures learns the flow over windows of 0.05 from the rows of `benchmark-surface-24`, in 1,250 steps of batch 32
whatever the number of rows, with one optimizer and one schedule; minutes of one core a run. Measured are the total losses on
the 2,000 test rows, to t = 2, and how long orbits stay near the truth beyond. Runs go to runs/chaos and are continued or not repeated;
results go to benchmarks/results/chaos.json after each. At the end come the laws of networks that were trained on four sizes or more.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import linregress

from neural_hamilton.architectures import load_model
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.data.manifest import MANIFEST_FILE, read_config, read_manifest
from neural_hamilton.platform.evaluation.metrics import summarise, total_losses
from neural_hamilton.platform.evaluation.predictions import predict
from neural_hamilton.platform.evaluation.problems import read_problems
from neural_hamilton.platform.evaluation.studies.rollouts import measure_rollouts
from neural_hamilton.platform.training.run_folder import History
from neural_hamilton.platform.training.runs import run_training
from neural_hamilton.tune.scaling.laws import fit_losses, fit_text

from .timing import add_line, read_lines, whole_numbers

NUM_STEPS, BATCH_SIZE = 1_250, 32
MOST_ROWS = NUM_STEPS * BATCH_SIZE  # each seen once
_FEWEST_SIZES, _CONFIDENCE = 4, 0.95  # of a law
_ROLLOUT_ROWS, _ROLLOUT_WINDOWS = 200, 4  # of one horizon each
_TASK = "benchmark-surface-24"

_FLOW: dict[str, Any] = {"window": 0.05, "gate_time": None, "patch_size": 4, "local_sensors": 7}
_DECODER: dict[str, Any] = {"d_model": 64, "num_heads": 8, "d_feedforward": 256, "num_frequencies": 8}
_MAMBONET: dict[str, Any] = {"name": "mambonet", "d_state": 8} | _FLOW | _DECODER
NETWORKS: dict[str, dict[str, Any]] = {
    "deeponet": {"name": "deeponet", "width": 128, "num_channels": 16} | _FLOW,
    "varonet": {"name": "varonet"} | _FLOW,
    "traonet": {"name": "traonet"} | _FLOW | _DECODER,
    "fno": {"name": "fno"} | _FLOW | _DECODER,
    "mambonet": _MAMBONET,
    "mambonet, windows of 0.1": _MAMBONET | {"window": 0.1},
    "mambonet, windows of 0.25": _MAMBONET | {"window": 0.25},
    "mambonet, the whole horizon": _MAMBONET | {"window": None, "local_sensors": 0},
    "mambonet, encoded fields at the state": _MAMBONET | {"local_sensors": 0, "local_memory": True},
    "mambonet, no local reading": _MAMBONET | {"local_sensors": 0},
}
_TRAINING: dict[str, Any] = {
    "training.batch_size": BATCH_SIZE,
    "training.optimizer": "soap",
    "training.learning_rate": 1e-2,
    "training.final_learning_rate": 1e-5,
    "training.val_rows": 500,
    "training.trackers": [],
}
_WARMUP = 0.1  # of all steps


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description="direct networks on random surfaces")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {'; '.join(NETWORKS)}")
    parser.add_argument("--rows", default=[MOST_ROWS], type=whole_numbers, help="numbers of training rows, each a part of the next")
    parser.add_argument("--seeds", default=[0], type=whole_numbers, help="of the networks; the rows are the same")
    parser.add_argument("--models", default=[], nargs="+", type=Path, metavar="FOLDER", help="measure trained models too, in the same way")
    parser.add_argument("--out", default=Path("runs/chaos"), type=Path)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NETWORKS):
        parser.error(f"NAME is {sorted(unknown)[0]!r}; choose from {'; '.join(NETWORKS)}")
    if bad := [rows for rows in options.rows if not BATCH_SIZE <= rows <= MOST_ROWS or MOST_ROWS % rows]:
        parser.error(f"--rows has {bad[0]}; give divisors of {MOST_ROWS}, so that all runs have as many steps")
    torch.set_num_threads(1)
    dataset = options.out / "dataset"
    if not (dataset / MANIFEST_FILE).exists():
        generate(dataset, load_config(_TASK, {"data.train": MOST_ROWS}).data, local=True)
    for folder in options.models:
        measured = measure(folder, dataset)
        add_line(
            "chaos", {"name": folder.name, "rows": None, "seed": None} | measured, ("name", "rows", "seed"), task=_TASK, steps=NUM_STEPS
        )
        print(
            f"{folder.name}: {measured['total_loss']['median']:.2e} / {measured['total_loss']['mean']:.2e}, {measured['valid_time']}",
            flush=True,
        )
    for name in options.names or ([] if options.models else NETWORKS):
        for rows in options.rows:
            for seed in options.seeds:
                line = run(name, rows, seed, dataset, options.out / f"{name.replace(', ', '-').replace(' ', '-')}-{rows}-{seed}")
                add_line("chaos", line, ("name", "rows", "seed"), task=_TASK, steps=NUM_STEPS)
                loss = line["total_loss"]
                print(f"{name:28} {rows:6} rows, seed {seed}: {loss['median']:.2e} / {loss['mean']:.2e}", flush=True)
    print("\n".join(laws(read_lines("chaos"))))
    return 0


def configure(name: str, rows: int, seed: int) -> dict[str, Any]:
    """The keys of one run."""
    epochs = MOST_ROWS // rows
    settings = _TRAINING | {"training.epochs": epochs, "training.warmup_epochs": _WARMUP * epochs, "training.train_rows": rows}
    return {f"architecture.{key}": value for key, value in NETWORKS[name].items()} | settings | {"training.seed": seed}


def run(name: str, rows: int, seed: int, dataset: Path, folder: Path) -> dict[str, Any]:
    """Train one network, unless it is there, and measure it."""
    config = load_config(_TASK, {"data.train": MOST_ROWS} | configure(name, rows, seed))
    result = run_training(config, dataset, folder, 0, resume=folder.exists())
    return {
        "name": name,
        "rows": rows,
        "seed": seed,
        "changes": NETWORKS[name],
        **measure(folder / "model", dataset),
        "validation_loss": result["validation_loss"],
        "seconds": sum(line["seconds"] for line in History(folder).read()),
    }


def measure(folder: Path, dataset: Path) -> dict[str, Any]:
    """A model on all test rows, and rolled out over four horizons from the first 200."""
    model = load_model(folder)
    problems = read_problems(read_split(dataset, "test"), read_config(read_manifest(dataset)))
    prediction = predict(model, problems, 100)
    settings = load_config(_TASK).evaluation
    some = problems.take(np.arange(_ROLLOUT_ROWS))
    rollouts = measure_rollouts(lambda part: predict(model, part, 100), [], some, _ROLLOUT_WINDOWS, problems.system.horizon)
    return {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "total_loss": summarise(total_losses(problems, prediction.q, prediction.p), settings.bootstrap, settings.seed),
        "valid_time": rollouts["solvers"]["model"]["prediction_time"],
    }


def laws(lines: list[dict[str, Any]]) -> list[str]:
    """How the loss falls with the rows, and what ten times as many add to the valid time; a line of text each."""
    texts = []
    for name in dict.fromkeys(line["name"] for line in lines):
        own = [line for line in lines if line["name"] == name]
        sizes = sorted({line["rows"] for line in own})
        if len(sizes) < _FEWEST_SIZES:
            continue
        for statistic in ("median", "mean"):
            losses = {rows: [line["total_loss"][statistic] for line in own if line["rows"] == rows] for rows in sizes}
            texts.append(f"{name}, {statistic} loss: {fit_text(fit_losses(losses, _CONFIDENCE)[0], _CONFIDENCE)}")
        times = linregress(np.log10([line["rows"] for line in own]), [line["valid_time"]["error_lyapunov"] for line in own])
        texts.append(
            f"{name}, valid time: {times.slope:+.2f} (standard error {times.stderr:.2f}) Lyapunov times for ten times as many rows"
        )
    return texts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
