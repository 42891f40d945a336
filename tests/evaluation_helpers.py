"""A network and problems whose solution is known in closed form, as several tests of the evaluation need them."""

import numpy as np
import torch

from neural_hamilton.architectures import ArchitectureConfig, Operator, Task, TrainedFor
from neural_hamilton.physics.potentials.curves import Curves
from neural_hamilton.physics.systems import Problems, get_system, roles
from neural_hamilton.physics.systems.well import Wells
from neural_hamilton.physics.systems.well.baselines.solver import WellSolver
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.evaluation.study import Subject

WELL = get_system("well")
PAPER, PHASE_SPACE = (WELL.get_ensemble(name)() for name in ("paper", "phase-space"))
TIGHT = WellSolver("tight", "dop853", roles=roles("table", "studies", "rollouts"), tolerance=1e-12)


class HarmonicNetwork(Operator):
    """Exact in 8 (q - 1/2)^2 from any initial state, but for a delay and a factor on the energy; ignores the potential."""

    def __init__(self, delay=0.0, stretch=1.0, num_sensors=40):
        super().__init__(ArchitectureConfig(name="harmonic"), Task((num_sensors,), ((0.0, 1.0),), 2.0))
        self.delay, self.stretch = delay, stretch
        self.double()

    def predict(self, fields, times_BT, initial_BK):
        q0, p0 = (initial_BK[:, i : i + 1] for i in (0, 1))
        phase = 4.0 * (times_BT - self.delay)
        q = 0.5 + self.stretch * ((q0 - 0.5) * phase.cos() + p0 / 4.0 * phase.sin())
        p = self.stretch * (p0 * phase.cos() - 4.0 * (q0 - 0.5) * phase.sin())
        return self.output(torch.stack([q, p], dim=-1), q.new_zeros(()))


def harmonic_problems(count=8, num_sensors=40, num_times=25):
    """Problems in 8 (q - 1/2)^2 with their exact solutions."""
    rng = np.random.default_rng(0)
    q0, p0 = rng.uniform(0.2, 0.8, count), rng.uniform(-1.0, 1.0, count)
    times = np.tile(np.linspace(0.0, 2.0, num_times), (count, 1))
    values = np.tile(8.0 * (np.linspace(0.0, 1.0, num_sensors) - 0.5) ** 2, (count, 1))
    c, s = np.cos(4 * times), np.sin(4 * times)
    x, p = q0[:, None] - 0.5, p0[:, None]
    energy = 0.5 * p0**2 + 8 * (q0 - 0.5) ** 2
    wells = Wells(Curves.from_samples(values))
    return Problems(WELL, PHASE_SPACE, wells, {"potential": values}, 0.0, q0, p0, times, 0.5 + x * c + p / 4 * s, p * c - 4 * x * s, energy)


def subject(network, problems, baselines, *, ensemble=PHASE_SPACE, **settings):
    """A network as a study sees it, as if it had been trained on an ensemble of the well."""
    initial_state = ensemble.fixed_initial_state
    trained_for = TrainedFor.of(network.task, system="well", ensemble=ensemble.dump(), initial_state=initial_state)
    config = load_config(None, {f"evaluation.{key}": value for key, value in settings.items()}).evaluation
    return Subject(network, {"provenance": {}}, trained_for, problems, baselines, config)
