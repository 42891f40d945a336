"""Fewer sensors and noisy ones: where knowing the kind of potential is worth more than a good interpolant.

Every solver integrates as well as float64 allows, so what it gets wrong is what it made of the sensors.
"""

from typing import Any

from ....architectures import Operator
from ....physics.potentials.interpolants import INTERPOLANTS
from ..answers import predict, solve
from ..metrics import measure, summarise
from ..problems import Problems
from ..solvers import ADAPTIVE_METHOD, PRIOR_FIT, TIGHT, Baseline, reconstruct


def study_sensors(
    models: dict[str, Operator],
    problems: Problems,
    sensor_counts: list[int],
    noise_levels: list[float],
    *,
    resamples: int,
    seed: int,
    batch_size: int,
    advance: Any = lambda: None,
) -> list[dict[str, Any]]:
    """One entry for each number of sensors and level of noise: summaries of the total loss of every reconstruction, and of
    each network that reads so many sensors, all on the same problems.
    """
    results = []
    for count in sensor_counts:
        for noise in [0.0, *noise_levels]:
            seen = problems.at_sensors(count, noise, seed)
            losses = {}
            for name, model in models.items():
                if model.task.num_sensors == count:
                    answer = predict(model, seen, batch_size)
                    losses[name] = measure(seen, answer.q, answer.p)["total_loss"]
            for kind in (*INTERPOLANTS, PRIOR_FIT):
                baseline = Baseline(f"dop853-{kind}", ADAPTIVE_METHOD, kind, tolerance=TIGHT)
                answer = solve(baseline, reconstruct(kind, seen), seen)
                losses[baseline.name] = measure(seen, answer.q, answer.p)["total_loss"]
            results.append(
                {
                    "sensors": count,
                    "noise": noise,
                    "rows": len(seen),
                    "total_loss": {name: summarise(values, resamples, seed) for name, values in losses.items()},
                }
            )
            advance()
    return results
