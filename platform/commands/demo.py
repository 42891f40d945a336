"""The whole path at small size, every stage the real one. Run again in the same folder, it continues where it was."""

import json
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...physics import NAMED_POTENTIALS
from ...physics.diagnostics import total_loss
from ..config.tree import Config, load_config
from ..data.generation import generate
from ..evaluation import evaluate
from .console import format_table

_WORKERS = 2
_ARCHITECTURES = ("deeponet", "orbitnet")
_TRIALS = 4


@dataclass(frozen=True)
class Stages:
    """The stages that live in rooms above this one, handed in by the command line."""

    train: Callable[[Config, Path, Path, int, bool], dict[str, Any]]
    sweep: Callable[[Config, Path, Path, int], dict[str, Any]]
    scale: Callable[[Config, Path, Path, list[str], list[int], int], dict[str, Any]]
    serve: Callable[[Path, str, int], AbstractContextManager[str]]


def run_demo(out: Path, stages: Stages) -> dict[str, Any]:
    """generate -> train -> sweep -> scale -> evaluate -> serve -> one request; returns a table and the report's path."""
    from ..ray_runtime import connect

    config = load_config("demo")
    dataset = out / "dataset"
    started = time.monotonic()
    connect(num_cpus=_WORKERS)
    counts = config.data.counts
    _say(started, f"generate {sum(counts.values())} certified trajectories with Ray Data")
    out.mkdir(parents=True, exist_ok=True)
    generate(dataset, config.data)

    _say(started, f"sweep {_TRIALS} deeponet trials with Ray Tune and Optuna")
    short = config.override({"architecture.name": "deeponet", "training.epochs": 6})
    sweep = stages.sweep(short, dataset, out / "sweep", _TRIALS)

    _say(started, "scale deeponet over three dataset sizes")
    sizes = [config.data.train // 4, config.data.train // 2, config.data.train]
    scaling = stages.scale(short, dataset, out / "scale", ["deeponet"], sizes, 1)

    runs = {}
    for name in _ARCHITECTURES:
        _say(started, f"train {name} with Ray Train on {_WORKERS} workers")
        runs[name] = stages.train(_choose(config, name, out), dataset, out / f"train-{name}", _WORKERS, True)
    best = min(runs, key=lambda name: runs[name]["validation_loss"])

    _say(started, f"evaluate {best} against solvers")
    model = Path(runs[best]["model"])
    evaluation = evaluate(model, dataset, out / "report", settings=config.evaluation)

    _say(started, f"serve {best} with Ray Serve and ask for the harmonic oscillator")
    request_loss, milliseconds = _ask_harmonic(stages, model)
    rows = [{"what": f"{name}: validation loss, {run['epochs']} epochs", "value": run["validation_loss"]} for name, run in runs.items()]
    rows += [
        {"what": f"sweep: best of {_TRIALS} trials", "value": sweep["best"]["validation_loss"]},
        {"what": f"deeponet: loss falls as rows^-b over {sizes} rows, b", "value": scaling["fits"]["deeponet"]["median"]["b"]},
        {"what": f"{best}: median total loss, test split", "value": evaluation["metrics"]["total_loss"]["median"]},
        *({"what": f"{solver}: median total loss", "value": b["total_loss"]["median"]} for solver, b in evaluation["baselines"].items()),
        {"what": f"{best}: harmonic oscillator, exact solution", "value": evaluation["named"]["harmonic"]["model"]},
        {"what": "the same over HTTP", "value": request_loss},
        {"what": "milliseconds for that request", "value": milliseconds},
        {"what": "minutes for the demo", "value": (time.monotonic() - started) / 60},
    ]
    return {
        "table": format_table(rows),
        "report": str(out / "report" / "report.html"),
        "results": {row["what"]: row["value"] for row in rows},
    }


def _choose(config: Config, name: str, out: Path) -> Config:
    """The demo's settings for an architecture; deeponet takes the learning rate its sweep found."""
    if name == config.architecture.name:
        return config
    best = load_config(out / "sweep" / "best.yaml")
    return config.override({"architecture.name": name, "training.learning_rate": best.training.learning_rate})


def _ask_harmonic(stages: Stages, model: Path) -> tuple[float, float]:
    """One real HTTP request; total loss of the answer against the exact solution, and its milliseconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    body = json.dumps({"trajectories": [{"expression": "8*(q-0.5)**2", "q0": 0, "p0": 0}], "verify": "energy"}).encode()
    with stages.serve(model, "127.0.0.1", port) as url:
        request = urllib.request.Request(f"{url.rstrip('/')}/v1/trajectories", body, {"Content-Type": "application/json"})
        started = time.perf_counter()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
        with direct.open(request, timeout=60) as response:
            answer = json.load(response)["trajectories"][0]
        milliseconds = 1e3 * (time.perf_counter() - started)
    q, p = NAMED_POTENTIALS["harmonic"].truth(np.array(answer["times"]))
    return float(total_loss(np.array(answer["q"]), np.array(answer["p"]), q, p)), milliseconds


def _say(started: float, message: str) -> None:
    print(f"[{time.monotonic() - started:5.0f} s] {message}", file=sys.stderr, flush=True)
