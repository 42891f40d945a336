"""`python -m benchmarks.ablations [NAME ...] [--ensemble paper] [--seeds 0,1] [--threads 1]`: what each idea is worth.

A small MambONet under one budget: 8,000 rows of an ensemble, six epochs of batch 25, SOAP at 1e-2. Each run differs from
`base` in what its name says and in nothing else. Two to five minutes a run on one core. Results go to
benchmarks/results/ablations.json after each run; a run that is there already is made again.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from neural_hamilton.physics.systems import get_system
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.training.run_folder import History
from neural_hamilton.platform.training.runs import run_training

from .timing import add_line, whole_numbers

BASE: dict[str, Any] = {
    "data.train": 8000,
    "data.val": 1000,
    "data.test": 0,
    "architecture.name": "mambonet",
    "architecture.d_model": 32,
    "architecture.num_mamba_layers": 2,
    "architecture.d_state": 8,
    "training.epochs": 6,
    "training.batch_size": 25,
    "training.optimizer": "soap",
    "training.learning_rate": 1e-2,
    "training.final_learning_rate": 1e-5,
    "training.warmup_epochs": 0.5,
    "training.sobolev_weight": 0.01,
}
# What MambONet has besides, and OrbitNet has not.
_ATTENTION: dict[str, Any] = {
    "architecture.num_heads": 4,
    "architecture.num_decoder_layers": 2,
    "architecture.d_feedforward": 128,
    "architecture.phase_angle": True,
}
_ORBITNET = {"architecture.name": "orbitnet"}
# The network that reads V, the initial state and the times, and nothing else; its rows never repeat.
_SHORT: dict[str, Any] = {"architecture.phase_angle": False, "training.endless": True}
_DIRECT = _SHORT | {"architecture.num_mamba_layers": 4}
_WINDOWS = _DIRECT | {"architecture.window": 0.5, "training.sobolev_weight": 0.0}  # from any state: for the ensemble `phase-space`
_LOCAL = _WINDOWS | {"architecture.local_memory": True, "architecture.gate_time": None}
_WIDE = {"architecture.d_model": 48, "architecture.num_heads": 6, "architecture.d_feedforward": 192}

ABLATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "no phase angle": {"architecture.phase_angle": False},
    "no phase angle, powers of t": {"architecture.phase_angle": False, "architecture.gate_time": None},
    "orbitnet": _ORBITNET,
    "orbitnet, four Mamba layers": _ORBITNET | {"architecture.num_mamba_layers": 4},
    "orbitnet, width 64": _ORBITNET | {"architecture.d_model": 64},
    "orbitnet, AdamW, 3e-3": _ORBITNET | {"training.optimizer": "adamw", "training.learning_rate": 3e-3},
    "powers of t": {"architecture.gate_time": None},
    "gate time 0.4": {"architecture.gate_time": 0.4},
    "start not imposed": {"architecture.hard_initial_condition": False, "architecture.gate_time": None},
    "learning rate 5e-3": {"training.learning_rate": 5e-3},
    "learning rate 2e-2": {"training.learning_rate": 2e-2},
    "AdamW, 3e-3": {"training.optimizer": "adamw", "training.learning_rate": 3e-3},
    "batch 50": {"training.batch_size": 50},
    "no Sobolev term": {"training.sobolev_weight": 0.0},
    "Sobolev term 0.03": {"training.sobolev_weight": 0.03},
    "energy term 0.01": {"training.energy_weight": 0.01},
    "log-cosh": {"training.loss": "log-cosh"},
    "average of weights, 0.99": {"training.ema_decay": 0.99},
    "endless rows": {"training.endless": True},
    "32 frequencies": {"architecture.num_frequencies": 32},
    "three decoder layers": {"architecture.num_decoder_layers": 3},
    "four Mamba layers": {"architecture.num_mamba_layers": 4},
    "width 48, 6 heads": _WIDE,
    "direct": _DIRECT,
    "direct, two Mamba layers": _SHORT,
    "direct, eight Mamba layers": _DIRECT | {"architecture.num_mamba_layers": 8},
    "direct, 16 states": _DIRECT | {"architecture.d_state": 16},
    "direct, one decoder layer": _DIRECT | {"architecture.num_decoder_layers": 1},
    "direct, three decoder layers": _DIRECT | {"architecture.num_decoder_layers": 3},
    "direct, feed-forward 256": _DIRECT | {"architecture.d_feedforward": 256},
    "direct, 8 heads": _DIRECT | {"architecture.num_heads": 8},
    "direct, 2 heads": _DIRECT | {"architecture.num_heads": 2},
    "direct, 8 frequencies": _DIRECT | {"architecture.num_frequencies": 8},
    "direct, 32 frequencies": _DIRECT | {"architecture.num_frequencies": 32},
    "direct, width 48, 6 heads": _DIRECT | _WIDE,
    "direct, gate time 0.03": _DIRECT | {"architecture.gate_time": 0.03},
    "direct, gate time 0.3": _DIRECT | {"architecture.gate_time": 0.3},
    "direct, learning rate 5e-3": _DIRECT | {"training.learning_rate": 5e-3},
    "direct, learning rate 2e-2": _DIRECT | {"training.learning_rate": 2e-2},
    "direct, AdamW, 3e-3": _DIRECT | {"training.optimizer": "adamw", "training.learning_rate": 3e-3},
    "direct, Muon, 1e-2": _DIRECT | {"training.optimizer": "muon"},
    "direct, batch 100, as many steps": _DIRECT | {"training.batch_size": 100, "training.epochs": 24, "training.warmup_epochs": 2.0},
    "windows of 0.5": _WINDOWS,
    "windows of 0.5, local memory": _WINDOWS | {"architecture.local_memory": True},
    "windows of 0.25, local memory": _WINDOWS | {"architecture.local_memory": True, "architecture.window": 0.25},
    "windows of 0.5, local memory, powers of t": _LOCAL,
    "windows of 0.25, local memory, powers of t": _LOCAL | {"architecture.window": 0.25},
    "windows of 0.1, local memory, powers of t": _LOCAL | {"architecture.window": 0.1},
    "windows of 0.05, local memory, powers of t": _LOCAL | {"architecture.window": 0.05},
    "windows of 0.25, powers of t": _WINDOWS | {"architecture.window": 0.25, "architecture.gate_time": None},
    "direct, tokens of 2 sensors": _DIRECT | {"architecture.patch_size": 2},
    "direct, tokens of 4 sensors": _DIRECT | {"architecture.patch_size": 4},
    "direct, no Sobolev term": _DIRECT | {"training.sobolev_weight": 0.0},
    "direct, Sobolev term 0.03": _DIRECT | {"training.sobolev_weight": 0.03},
    "direct, log-cosh": _DIRECT | {"training.loss": "log-cosh"},
    "direct, average of weights, 0.99": _DIRECT | {"training.ema_decay": 0.99},
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description="what each idea is worth")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {'; '.join(ABLATIONS)}")
    parser.add_argument("--ensemble", choices=list(get_system("well").ensembles), default="paper")
    parser.add_argument("--seeds", default="0", type=whole_numbers, help="comma-separated seeds of the networks; the data is the same")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(ABLATIONS):
        parser.error(f"NAME is {sorted(unknown)[0]!r}; choose from {'; '.join(ABLATIONS)}")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch) / "dataset"
        generate(dataset, load_config(None, BASE | {"data.ensemble.name": options.ensemble}).data, local=True)
        for name in options.names or ABLATIONS:
            for seed in options.seeds:
                line = _run(name, options.ensemble, seed, dataset, Path(scratch) / f"run-{len(list(Path(scratch).iterdir()))}")
                add_line("ablations", line, ("name", "ensemble", "seed"), base=BASE | _ATTENTION)
                print(f"{name:32} seed {seed}  {line['validation_loss']:.2e}  {line['milliseconds_a_step']:.0f} ms a step", flush=True)
    return 0


def base_of(changes: dict[str, Any]) -> dict[str, Any]:
    """What a run with some changes starts from."""
    return BASE if "architecture.name" in changes else BASE | _ATTENTION


def _run(name: str, ensemble: str, seed: int, dataset: Path, run: Path) -> dict[str, Any]:
    changes = ABLATIONS[name]
    config = load_config(None, base_of(changes) | changes | {"data.ensemble.name": ensemble, "training.seed": seed})
    result = run_training(config, dataset, run, 0, resume=False)
    steps = sum(line["steps"] for line in History(run).read())
    return {
        "name": name,
        "ensemble": ensemble,
        "changes": changes,
        "seed": seed,
        "validation_loss": result["validation_loss"],
        "num_parameters": result["num_parameters"],
        "milliseconds_a_step": 1e3 * result["seconds"] / steps,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
