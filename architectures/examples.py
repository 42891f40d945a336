"""Example problems for any network, and what it predicts for them: kept in its card, so that whoever loads it can tell that it still does.

Weights have a checksum; what is computed from them depends on this package and on its libraries too.

Shapes: B rows, C channels, S sensors, T query times, d degrees of freedom.
"""

from typing import Any

import numpy as np
import torch

from ..physics.errors import InputError
from .operator import Operator
from .task import Task

_NUM_ROWS = 2
_NUM_TIMES = 16
_TOLERANCE = 1e-3  # of the largest value; other processors differ by a few 1e-6 in float32


def example_inputs(task: Task, num_rows: int, num_times: int = _NUM_TIMES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bowls of random depths, query times and random initial states in them, always the same.

    Returns
    -------
    fields, times, initial
        (B, S) or (B, C, S1, S2); (B, T), sorted; (B, 2 d).
    """
    random = np.random.default_rng(0)
    lows, highs = np.array(task.domain).T
    bowl = np.ones(())
    for size in task.sensors:
        bowl = np.multiply.outer(bowl, np.sin(np.pi * np.linspace(0.0, 1.0, size)))
    depths = random.uniform(1.0, 1.8, (num_rows, task.channels, *(1,) * len(task.sensors)))
    fields = (2.0 - depths * bowl).reshape(num_rows, *task.field_shape)
    times = np.sort(random.uniform(0.0, task.horizon, (num_rows, num_times)), axis=1)
    inside = lows + (highs - lows) * random.uniform(0.3, 0.7, (num_rows, len(task.domain)))
    return fields, times, np.concatenate([inside, random.uniform(-0.1, 0.1, inside.shape)], axis=1)


def predict_examples(model: Operator) -> dict[str, Any]:
    """What a network in evaluation mode predicts, as its card keeps it."""
    device = next(model.parameters()).device
    inputs = (torch.as_tensor(part, dtype=model.dtype, device=device) for part in example_inputs(model.task, _NUM_ROWS))
    with torch.inference_mode():
        output = model(*inputs)
    # Nine digits tell any two float32 apart. JSON has no number that is not finite.
    return {
        name: [float(f"{value:.9g}") if np.isfinite(value) else None for value in getattr(output, name).flatten().tolist()]
        for name in ("q", "p")
    }


def check_examples(model: Operator, recorded: dict[str, Any], where: str) -> None:
    """InputError where a network predicts something else than its card has on record."""
    found = predict_examples(model)
    for name, values in recorded.items():
        expected, actual = (np.array(numbers, dtype=np.float64) for numbers in (values, found[name]))
        scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0.0)))
        if not np.allclose(actual, expected, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True):
            raise InputError(
                f"{where} no longer predicts what its card has on record for {name}, by up to {np.nanmax(np.abs(actual - expected)):.3g}; "
                "use the versions that it was saved with, or train it again"
            )
