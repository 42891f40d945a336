"""What a network predicts for problems, and how long it takes.

Shapes: N problems, T query times, d degrees of freedom.
"""

import time

import numpy as np
import torch

from ...architectures import Operator
from ...physics.systems import Predictions, Problems
from ..data.datasets import Split, stack_fields


def predict(model: Operator, problems: Problems, batch_size: int) -> Predictions:
    """The network's predictions, in batches, in its own precision, on all the threads PyTorch has."""
    fields, times, initial = stack_fields(problems.fields, problems.system), problems.distinct_times, problems.initial
    started = time.perf_counter()
    q, p = _forward(model, fields, times, initial, batch_size)
    return Predictions(q, p, (time.perf_counter() - started) / len(problems))


def predict_split(model: Operator, split: Split, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The network's q, p, (N, T) or (N, T, d) in float64, on every row of a split."""
    return _forward(model, split.potential, split.distinct_times, split.initial, batch_size)


def _forward(model: Operator, fields: np.ndarray, times: np.ndarray, initial: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    parts, dtype = [], model.dtype
    with torch.inference_mode():
        for start in range(0, len(fields), batch_size):
            rows = slice(start, start + batch_size)
            asked = times if len(times) == 1 else times[rows]
            output = model(*(torch.tensor(array, dtype=dtype) for array in (fields[rows], asked, initial[rows])))
            parts.append((output.q.double().numpy(), output.p.double().numpy()))
    q, p = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return q, p
