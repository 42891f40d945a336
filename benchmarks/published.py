"""`python -m benchmarks.published`: where the published loss of "RK4", 5.29e-5, comes from.

The scheme that the solver behind it computed, at its step of 1e-4, and a correct RK4 at ten times that step, both on
a spline through the 100 sensors, over test potentials of the preset `paper`; three seeds.
"""

import numpy as np

from neural_hamilton.physics import solve
from neural_hamilton.physics.diagnostics import total_loss
from neural_hamilton.physics.ensembles import Ensemble
from neural_hamilton.platform.evaluation.metrics import summarise
from neural_hamilton.platform.evaluation.problems import Problems
from neural_hamilton.platform.evaluation.solvers import reconstruct

from .timing import describe_machine, write_result

_ROWS, _SEEDS = 2_000, (0, 1, 2)
_SCHEMES = {"rk4-as-published": 1e-4, "rk4": 1e-3}
_PUBLISHED = 5.29e-5


def main() -> None:
    lines = []
    print(f"total loss of {_ROWS} trajectories; published: {_PUBLISHED:g}")
    print(f"{'scheme':18}{'step':>8}{'spline':>9}{'seed':>6}{'median':>10}{'mean':>10}")
    for seed in _SEEDS:
        problems = Problems.draw(Ensemble("paper"), seed, _ROWS, 100)
        for kind in ("cubic", "hermite"):
            curves = reconstruct(kind, problems).curves
            for scheme, step in _SCHEMES.items():
                start = np.zeros(_ROWS)
                q, p, _ = solve(curves, start, start, problems.times[0], method=scheme, step=step)
                losses = summarise(total_loss(q, p, problems.q, problems.p), 1000, 0)
                lines.append({"scheme": scheme, "step": step, "spline": kind, "seed": seed, "total_loss": losses})
                print(f"{scheme:18}{step:8g}{kind:>9}{seed:6}{losses['median']:10.1e}{losses['mean']:10.1e}", flush=True)
    path = write_result("published", {"rows": _ROWS, "published": _PUBLISHED, "lines": lines, "machine": describe_machine()})
    print(path)


if __name__ == "__main__":
    main()
