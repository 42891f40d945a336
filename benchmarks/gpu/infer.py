"""Time of a predicted trajectory on the device, beside compiled RK4 on all CPUs of the same machine at equal accuracy.

The solver integrates the cubic spline through the sensors that the network reads, at the longest step with which its median
loss is no larger than the network's.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neural_hamilton.architectures import Operator, build_operator, load_model
from neural_hamilton.physics import InputError
from neural_hamilton.physics.diagnostics import total_loss
from neural_hamilton.physics.systems import Problems
from neural_hamilton.physics.systems.well.baselines.reconstructions import INTERPOLATED
from neural_hamilton.physics.systems.well.baselines.solver import WellSolver
from neural_hamilton.platform.config.data import DataConfig
from neural_hamilton.platform.data.datasets import unstack_fields
from neural_hamilton.platform.evaluation.problems import draw_problems
from neural_hamilton.platform.training.batches import Batch
from neural_hamilton.platform.training.precision import matmul_precision
from neural_hamilton.platform.training.trained_for import task_of

from . import LEARN_FOLDER, RESULTS, clock
from .bench import Bench, Cell, Skipped
from .networks import DIRECT, data_of, draw, network_config, repeat, shipped_models
from .record import say

SIZES = (16384, 1024, 1, 131072)  # trajectories at once; the first is the goal's
_ROWS_PER_PASS = 16384  # attention takes at most 65,535 rows in a launch
_SOLVED_UP_TO = 100_000  # a solver's time per trajectory no longer depends on the size there
_PROBLEMS = 1000  # that are distinct
_STEPS = (0.02, 0.01, 0.005, 0.002, 0.001)  # the first is the gap between query times
_AS_GOOD = 1.1
_CUBIC = INTERPOLATED["cubic"]


def cells(bench: Bench) -> Iterator[Cell]:
    models = {DIRECT: RESULTS / LEARN_FOLDER / "model"} | shipped_models()
    models = dict(list(models.items())[: bench.size(None, 2)])
    for size in bench.size(SIZES, (4,)):
        for name, folder in models.items():
            for precision in ("float32", "tf32", "bf16") if size == SIZES[0] and name == DIRECT else ("float32",):
                yield Cell({"model": name, "trajectories": size, "precision": precision}, _network(bench, name, folder, size, precision))
        for name, folder in models.items() if size < _SOLVED_UP_TO else ():
            yield Cell({"solver": "rk4", "accuracy_of": name, "trajectories": size}, _solver(bench, name, folder, size))


def _network(bench: Bench, name: str, folder: Path, size: int, precision: str) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        bench.check_precision(precision)
        model, data, trained = _model(bench, name, folder)
        model = model.to(bench.device)
        rows = repeat(data, size, bench.device, _PROBLEMS)
        on_host = repeat(data, size, torch.device("cpu"), _PROBLEMS)
        with matmul_precision(precision, bench.device) as autocast, autocast(), torch.inference_mode():
            seconds = clock.median_seconds(lambda: _predict(model, rows), bench.device)
            whole = clock.sustained_seconds(
                lambda: _predict(model, on_host.to(bench.device)).cpu(), bench.device, bench.size(0.5, 0.01), warm_up=1
            )
        figures = {"seconds_each": seconds / size, "seconds_each_from_host_to_host": whole / size, "trained": trained}
        return figures | {"median_loss": _median_loss(model, data, bench, precision)}

    return measure


def _model(bench: Bench, name: str, folder: Path) -> tuple[Operator, DataConfig, bool]:
    """The network, the data it is for, and whether it has learnt anything: the direct one may not be in the repository yet."""
    try:
        return load_model(folder), data_of(folder), True
    except InputError as error:
        if name != DIRECT:
            raise
        say(f"infer: {name} has random weights: {error}")
    config = network_config(name, bench.tiny, {})
    torch.manual_seed(0)
    return build_operator(config.architecture, task_of(config.data)).eval(), config.data, False


def _predict(model: Operator, rows: Batch) -> torch.Tensor:
    """q and p, (2, N, T)."""
    parts = []
    for some in rows.split([len(part) for part in torch.arange(len(rows)).split(_ROWS_PER_PASS)]):
        output = model(some.potential, some.times, some.initial)
        parts.append(torch.stack([output.q, output.p]))
    return torch.cat(parts, dim=1)


def _median_loss(model: Operator, data: DataConfig, bench: Bench, precision: str) -> float:
    """On the distinct problems, against the certified truth."""
    rows = repeat(data, bench.size(_PROBLEMS, 4), bench.device, _PROBLEMS)
    with matmul_precision(precision, bench.device) as autocast, autocast(), torch.inference_mode():
        q, p = _predict(model, rows).double().cpu().numpy()
    return _median(q, p, rows.q.double().cpu().numpy(), rows.p.double().cpu().numpy())


def _median(q: np.ndarray, p: np.ndarray, true_q: np.ndarray, true_p: np.ndarray) -> float:
    """Of the total loss, where a trajectory that is not finite is further off than any other."""
    with np.errstate(all="ignore"):
        losses = total_loss(q, p, true_q, true_p)
    return float(np.median(np.where(np.isfinite(losses), losses, np.inf)))


def _solver(bench: Bench, name: str, folder: Path, size: int) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        model, data, trained = _model(bench, name, folder)
        if not trained:
            raise Skipped("the network has learnt nothing, so nothing is as accurate")
        problems = _problems(data, bench.size(_PROBLEMS, 4))
        accuracy = _median_loss(model.to(bench.device), data, bench, "float32")
        losses = {}
        for step in _STEPS:
            q, p, _ = _rk4(step).states(problems)
            losses[step] = _median(q, p, problems.q, problems.p)
            if losses[step] <= accuracy:
                break
        if not np.isfinite(min(losses.values())):
            raise Skipped("on a spline through these sensors most particles leave the walls")
        least = min(losses.values())  # shorter steps may gain nothing: the spline's error stays
        reached = accuracy if least <= accuracy else _AS_GOOD * least
        best = next(step for step, loss in losses.items() if loss <= reached)
        chosen = np.arange(size) % len(problems)
        batch = problems.take(chosen)
        cpu = torch.device("cpu")
        seconds = clock.median_seconds(lambda: _rk4(best).states(batch), cpu)
        rebuilding = clock.median_seconds(lambda: _CUBIC.rebuild(batch), cpu)
        return {
            "step": best,
            "median_loss": losses[best],
            "times_the_networks_loss": losses[best] / accuracy,
            "seconds_each": seconds / size,
            "seconds_each_for_the_spline": rebuilding / size,
        }

    return measure


def _rk4(step: float) -> WellSolver:
    return WellSolver("rk4", "rk4", _CUBIC, step=step)


@cache
def _problems(data: DataConfig, count: int) -> Problems:
    """The rows that the network is asked, with the readings it has."""
    system = data.get_system()
    drawn = draw_problems(system, data.distribution, data.distribution, data.seed, count, data.sensor_shape)
    fields = unstack_fields(draw(data, count).potential.double().numpy(), system)
    return replace(drawn, fields=fields, noise=data.noise)
