"""`python -m benchmarks.orbit_inputs`: what MambONet's inputs say of q before any network, beside the shipped one.

Each sensor has the angle at which the particle passes it, each query the angle at its time; q is read off between the two sensors
whose angles hold the query's. 4,000 test potentials of preset `paper`.
"""

import numpy as np
import torch

from neural_hamilton.architectures import load_model
from neural_hamilton.architectures.orbits import OrbitFinder
from neural_hamilton.physics.ensembles import Ensemble
from neural_hamilton.platform.evaluation.answers import predict
from neural_hamilton.platform.evaluation.problems import Problems
from neural_hamilton.serve.predictor import SHIPPED_MODEL

from .timing import describe_machine, write_result

_ROWS, _SEED, _SENSORS = 4_000, 0, 100


def main() -> None:
    problems = Problems.draw(Ensemble("paper"), _SEED, _ROWS, _SENSORS)
    answers = {"the inputs alone": read_off(problems), "the network": predict(load_model(SHIPPED_MODEL), problems, 256).q}
    losses = {name: np.mean((q - problems.q) ** 2, axis=1) for name, q in answers.items()}
    lines = {name: {"median": float(np.median(x)), "mean": float(x.mean())} for name, x in losses.items()}
    print(f"mean squared error of q over {_ROWS} trajectories")
    for name, line in lines.items():
        print(f"{name:18} median {line['median']:.1e}  mean {line['mean']:.1e}")
    print(write_result("orbit_inputs", {"rows": _ROWS, "seed": _SEED, "error_of_q": lines, "machine": describe_machine()}))


def read_off(problems: Problems) -> np.ndarray:
    """q (N, T) from the angles alone."""
    sensors, start, times = (torch.from_numpy(x).float() for x in (problems.sensors, problems.initial, problems.times))
    orbit = OrbitFinder(sensors.shape[1])(sensors, start)
    angle_BT, angle_BS = orbit.angle_at(times).numpy(), orbit.angle.numpy()
    on_the_way_right_BT = np.arccos(np.cos(angle_BT))  # the way back passes the same places
    places = np.linspace(0.0, 1.0, sensors.shape[1])
    return np.stack([np.interp(at, known, places) for at, known in zip(on_the_way_right_BT, angle_BS, strict=True)])


if __name__ == "__main__":
    main()
