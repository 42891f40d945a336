"""What a network and a solver say to the same problems, and how long it took them.

Shapes: N problems, T query times.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ...architectures import Operator
from ...architectures.layers.orbit_quadrature import quadrature_orbit
from ...architectures.orbitnet import OrbitNet
from ..data.datasets import Split
from .problems import Problems
from .solvers import Baseline, Reconstruction, run_solver


@dataclass(frozen=True)
class Answers:
    """q, p (N, T) in float64, and the time a problem took, in seconds, all of them in one go."""

    q: np.ndarray
    p: np.ndarray
    seconds_each: float


def predict(model: Operator, problems: Problems, batch_size: int) -> Answers:
    """The network's answers, in batches, in its own precision, on all the threads PyTorch has."""
    started = time.perf_counter()
    q, p = _forward(model, problems.sensors, problems.distinct_times, problems.initial, batch_size)
    return Answers(q, p, (time.perf_counter() - started) / len(problems))


def read_inputs(model: Operator, problems: Problems, batch_size: int) -> Answers | None:
    """The q and p that a network is told before it answers; None for one that is told none."""
    if not isinstance(model, OrbitNet):
        return None
    started, dtype, parts = time.perf_counter(), model.dtype, []
    for rows in np.split(np.arange(len(problems)), range(batch_size, len(problems), batch_size)):
        arrays = problems.sensors[rows], problems.times[rows], problems.initial[rows]
        with torch.inference_mode():
            sensors, times, initial = (torch.tensor(array, dtype=dtype) for array in arrays)
            told = quadrature_orbit(sensors, times, initial, model.task)
        parts.append(told.double().numpy())
    q, p = np.concatenate(parts).transpose(2, 0, 1)
    return Answers(q, p, (time.perf_counter() - started) / len(problems))


def predict_split(model: Operator, split: Split, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The network's q, p (N, T) on every row of a split, in float64."""
    return _forward(model, split.potential, split.distinct_times, split.initial, batch_size)


def solve(baseline: Baseline, reconstruction: Reconstruction, problems: Problems) -> Answers:
    """A solver's answers, on all CPUs; its time has in it that of rebuilding V from the sensors."""
    run_solver(baseline, reconstruction.curves[0], problems.take(slice(1)))  # compiles
    started = time.perf_counter()
    solution = run_solver(baseline, reconstruction.curves, problems)
    return Answers(solution.q, solution.p, (time.perf_counter() - started + reconstruction.seconds) / len(problems))


def ask(model: Operator, sensors: np.ndarray, times: np.ndarray, start: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """q, p (T,) of one potential (S,) at times (T,)."""
    q, p = _forward(model, sensors[None], times[None], np.array([start]), 1)
    return q[0], p[0]


def _forward(
    model: Operator, sensors: np.ndarray, times: np.ndarray, initial: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    parts, dtype = [], model.dtype
    with torch.inference_mode():
        for start in range(0, len(sensors), batch_size):
            rows = slice(start, start + batch_size)
            asked = times if len(times) == 1 else times[rows]
            output = model(*(torch.tensor(a, dtype=dtype) for a in (sensors[rows], asked, initial[rows])))
            parts.append((output.q.double().numpy(), output.p.double().numpy()))
    q, p = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return q, p
