"""The command `demo`: the whole product at small size, every stage the real one."""

import contextlib
import json
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...physics.diagnostics import total_loss
from ..config import Config, load_config
from .console import LOCAL_OUT, emit, json_option
from .tables import format_table

_WORKERS, _TRIALS = 2, 4
_ARCHITECTURES = ("deeponet", "mambonet")


@click.command()
@click.option(
    "--out", default=Path("runs/demo"), type=LOCAL_OUT, help="Folder for everything the demo makes; run again, it continues there."
)
@json_option
def demo(out: Path, as_json: bool) -> None:
    """Run the whole path on small input, in minutes.

    The steps: generate, train, sweep, scale, evaluate, serve, and one request.
    """
    result = run_demo(out.absolute())
    emit(result, as_json, f"{result['table']}\nreport: {result['report']}")


def run_demo(out: Path) -> dict[str, Any]:
    """Every stage in turn, each the function behind its own command; returns a table and the report's path."""
    from ...tune.scaling.scale import scale
    from ...tune.sweeps.sweep import sweep
    from ..data.generation import generate
    from ..evaluation import evaluate
    from ..ray_runtime import connect
    from ..training.runs import run_training

    started, dataset = time.monotonic(), out / "dataset"
    config = load_config("demo")
    short = config.override({"architecture.name": "deeponet", "training.epochs": 6})
    sizes = [config.data.train // 4, config.data.train // 2, config.data.train]
    connect(num_cpus=_WORKERS)
    out.mkdir(parents=True, exist_ok=True)

    _announce(started, f"generate {sum(config.data.counts.values())} certified trajectories with Ray Data")
    generate(dataset, config.data)

    _announce(started, f"sweep {_TRIALS} deeponet trials with Ray Tune and Optuna")
    swept = sweep(short, dataset, out / "sweep", _TRIALS)

    _announce(started, f"scale deeponet over {len(sizes)} dataset sizes")
    scaled = scale(short.override({"training.endless": False}), dataset, out / "scale", ["deeponet"], sizes, 1)

    runs = {}
    for name in _ARCHITECTURES:
        _announce(started, f"train {name} with Ray Train on {_WORKERS} workers")
        runs[name] = run_training(_choose(config, name, out), dataset, out / f"train-{name}", _WORKERS, resume=True)
    best = min(runs, key=lambda name: runs[name]["validation_loss"])
    model = Path(runs[best]["model"])

    _announce(started, f"evaluate {best} against solvers")
    evaluation = evaluate(model, dataset, out / "report", settings=config.evaluation)

    _announce(started, f"serve {best} with Ray Serve and request the harmonic oscillator")
    with _serving(model) as url:
        request_loss, milliseconds = _request_harmonic(url, config)

    results: dict[str, Any] = {}
    for name, run in runs.items():
        results[f"{name}: validation loss after the first epoch"] = run["first_validation_loss"]
        results[f"{name}: validation loss after {run['epochs']}"] = run["validation_loss"]
    results[f"sweep: best validation loss of {_TRIALS} trials"] = swept["best"]["validation_loss"]
    results[f"deeponet: exponent b of loss = a rows^-b over {sizes} rows"] = scaled["fits"]["deeponet"]["median"]["b"]
    results[f"{best}: median total loss, test split"] = evaluation["metrics"]["total_loss"]["median"]
    results |= {f"{name}: median total loss": figures["total_loss"]["median"] for name, figures in evaluation["baselines"].items()}
    results[f"{best}: total loss on the harmonic oscillator"] = evaluation["named"]["harmonic"]["model"]
    results["the same over HTTP"] = request_loss
    results["milliseconds for that request"] = milliseconds
    results["minutes for the demo"] = (time.monotonic() - started) / 60
    table = format_table([{"what": what, "value": value} for what, value in results.items()])
    return {"table": table, "report": str(out / "report" / "report.html"), "results": results}


def _announce(started: float, stage: str) -> None:
    print(f"[{time.monotonic() - started:5.0f} s] {stage}", file=sys.stderr, flush=True)


def _choose(config: Config, name: str, out: Path) -> Config:
    """The demo's settings for an architecture; deeponet takes the learning rate that its sweep found."""
    if name == config.architecture.name:
        return config
    best = load_config(out / "sweep" / "best.yaml")
    return config.override({"architecture.name": name, "training.learning_rate": best.training.learning_rate})


@contextlib.contextmanager
def _serving(model: Path) -> Iterator[str]:
    """The URL of an endpoint for `model` on a free port."""
    from ...serve import application

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        yield application.start(model, "127.0.0.1", port)
    finally:
        application.stop()


def _request_harmonic(url: str, config: Config) -> tuple[float, float]:
    """One real HTTP request; total loss of the prediction against the exact solution, and its milliseconds."""
    body = json.dumps({"trajectories": [{"expression": "8*(q-0.5)**2", "q0": 0, "p0": 0}], "verify": "energy"}).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/trajectories", body, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    started = time.perf_counter()
    with direct.open(request, timeout=60) as response:
        trajectory = json.load(response)["trajectories"][0]
    milliseconds = 1e3 * (time.perf_counter() - started)
    cases = config.data.get_system().named_cases(config.data.distribution.fixed_initial_state)
    q, p = next(case for case in cases if case.name == "harmonic").truth(np.array(trajectory["times"]))
    return float(total_loss(np.array(trajectory["q"]), np.array(trajectory["p"]), q, p)), milliseconds


COMMANDS = (demo,)
