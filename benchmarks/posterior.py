"""What the sensors of a random surface leave open: the loss of the best prediction that can be made from them.

Surfaces are drawn from their distribution given V at the sensors (`sample_surfaces`), which is known exactly here, and the motion on
each is integrated. In expected squared error nothing beats the mean of these motions, and its expected loss is their variance. The loss
of any network can be read against this, as against that of one solver on one fitted surface. With noise the distribution is known to
first order in the errors of log(2 - V), so that close to the rim the mean of its motions is not quite the best.

Shapes: R rows, T query times.
"""

from typing import Any

import numpy as np

from neural_hamilton.physics.systems import Problems, get_system
from neural_hamilton.physics.systems.surface.prior_fit import fit_surfaces, sample_surfaces
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.evaluation.metrics import summarise, total_losses
from neural_hamilton.platform.evaluation.problems import draw_problems

_TASKS = ((12, 0.0), (8, 0.0), (24, 0.0), (24, 0.01))  # sensors along an axis, and their noise
_NUM_ROWS = 2_000
_NUM_SAMPLES = 64
_ROWS_AT_ONCE = 200  # their samples are held together


def measure(num_rows: int = _NUM_ROWS, num_samples: int = _NUM_SAMPLES) -> dict[str, Any]:
    """Total losses of the test rows of `surface`, seed 0, for each number of sensors along an axis and their noise."""
    result = {_name(*task): _measure_task(*task, num_rows, num_samples) for task in _TASKS}
    return {
        "what": f"total loss on {num_rows} random surfaces: the mean of {num_samples} motions given the sensors, and the prior fit",
        "comparisons": [],
        "sensors": result,
    }


def _name(sensors: int, noise: float) -> str:
    return f"{sensors} x {sensors}" + (f", noise {noise:g}" if noise else "")


def _measure_task(sensors: int, noise: float, num_rows: int, num_samples: int) -> dict[str, Any]:
    system, settings = get_system("surface"), load_config(None, {}).evaluation
    ensemble = system.get_ensemble("random")()
    problems = draw_problems(system, ensemble, ensemble, 0, num_rows, (sensors, sensors)).at_sensors((sensors, sensors), noise, 0)
    losses: dict[str, list[np.ndarray]] = {"prior fit": [], "best": [], "expected": []}
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        part = problems.take(slice(start, start + _ROWS_AT_ONCE))
        values = part.fields["potential"].astype(np.float32).astype(float)
        losses["prior fit"].append(total_losses(part, *_solve(part, fit_surfaces(values, noise))))
        samples = sample_surfaces(values, noise, ensemble.length_scale, num_samples, seed=start)
        motions = np.array([_solve(part, surfaces) for surfaces in samples])
        losses["best"].append(total_losses(part, *motions.mean(axis=0)))
        # The mean of a few motions scatters about that of all by a fraction of their variance.
        spread = motions.var(axis=0, ddof=1).mean(axis=(2, 3)).mean(axis=0)
        losses["expected"].append(spread * (1 + 1 / num_samples))
    found = {name: summarise(np.concatenate(values), settings.bootstrap, settings.seed) for name, values in losses.items()}
    print(f"{_name(sensors, noise)}: " + "; ".join(f"{name} {x['median']:.2g} / {x['mean']:.2g}" for name, x in found.items()))
    return found


def _solve(problems: Problems, surfaces: Any) -> tuple[np.ndarray, np.ndarray]:
    return problems.system.solve(surfaces, problems.q0, problems.p0, problems.times)
