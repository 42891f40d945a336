"""`python -m benchmarks.published`: where the published loss of "RK4", 5.29e-5, comes from.

The scheme that the solver behind it computed, at its step of 1e-4, and a correct RK4 at ten times that step, both on
a spline through the 100 sensors, over test potentials of the ensemble of the publication; three seeds.
"""

from neural_hamilton.physics.systems import get_system
from neural_hamilton.physics.systems.well.baselines.published import PUBLISHED, PUBLISHED_STEP
from neural_hamilton.physics.systems.well.baselines.reconstructions import INTERPOLATED
from neural_hamilton.physics.systems.well.baselines.solver import WellSolver
from neural_hamilton.platform.evaluation.metrics import summarise, total_losses
from neural_hamilton.platform.evaluation.problems import draw_problems

from .timing import describe_machine, write_result

_ROWS, _SEEDS = 2_000, (0, 1, 2)
_SCHEMES = {PUBLISHED: PUBLISHED_STEP, "rk4": 1e-3}
_PUBLISHED_LOSS = 5.29e-5


def main() -> None:
    lines = []
    print(f"total loss of {_ROWS} trajectories; published: {_PUBLISHED_LOSS:g}")
    print(f"{'scheme':18}{'step':>8}{'spline':>9}{'seed':>6}{'median':>10}{'mean':>10}")
    well = get_system("well")
    ensemble = well.get_ensemble("paper")()
    for seed in _SEEDS:
        problems = draw_problems(well, ensemble, ensemble, seed, _ROWS, (100,))
        for kind in ("cubic", "hermite"):
            for scheme, step in _SCHEMES.items():
                states = WellSolver(scheme, scheme, INTERPOLATED[kind], step=step).states(problems)
                losses = summarise(total_losses(problems, states.q, states.p), 1000, 0)
                lines.append({"scheme": scheme, "step": step, "spline": kind, "seed": seed, "total_loss": losses})
                print(f"{scheme:18}{step:8g}{kind:>9}{seed:6}{losses['median']:10.1e}{losses['mean']:10.1e}", flush=True)
    path = write_result("published", {"rows": _ROWS, "published": _PUBLISHED_LOSS, "lines": lines, "machine": describe_machine()})
    print(path)


if __name__ == "__main__":
    main()
