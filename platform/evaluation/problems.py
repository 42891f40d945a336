"""Problems for an evaluation: the rows of a dataset, new draws of an ensemble, and the named cases of a system."""

import numpy as np

from ...physics.systems import Ensemble, NamedCase, Problems, Shapes, System, draw_rows, own_columns
from ..config.data import DataConfig
from ..data.datasets import Split, unstack_fields


def read_problems(split: Split, config: DataConfig) -> Problems:
    """The rows of a dataset as stored; `config` says how they were drawn and read."""
    system = config.get_system()
    times, q, p, fields = (x.astype(np.float64) for x in (split.times, split.q, split.p, split.potential))
    q0, p0 = _split_state(split.initial, system)
    return Problems(
        system=system,
        ensemble=config.distribution,
        hamiltonians=split.hamiltonians,
        fields=unstack_fields(fields, system),
        noise=config.noise,
        q0=q0,
        p0=p0,
        times=times,
        q=q,
        p=p,
        energy=split.energy,
        columns=split.own,
        floor=truth_floor(split),
        has_exact_hamiltonians=split.has_exact_hamiltonians,
    )


def draw_problems(system: System, ensemble: Ensemble, assumed: Ensemble, seed: int, count: int, sensors: tuple[int, ...]) -> Problems:
    """The first `count` test problems of an ensemble, with float64 labels. Baselines may assume that they come from `assumed`."""
    rows, _ = draw_rows(system, ensemble, seed, "test", np.arange(count))
    drawn = Problems(
        system=system,
        ensemble=assumed,
        hamiltonians=rows.hamiltonians,
        fields={},
        noise=0.0,
        q0=rows.q0,
        p0=rows.p0,
        times=rows.times,
        q=rows.q,
        p=rows.p,
        energy=rows.energy,
        columns=own_columns(rows.columns, system),
        floor=float(np.mean(rows.integration_error**2)),
    )
    return drawn.at_sensors(sensors)


def case_problem(case: NamedCase, system: System, ensemble: Ensemble, sensors: tuple[int, ...], times: np.ndarray) -> Problems:
    """One named case at query times (T,), as a single problem."""
    q, p = case.truth(times)
    q0, p0 = (np.array([state[0]]) if system.degrees_of_freedom == 1 else np.array([state]) for state in (case.q0, case.p0))
    energy = case.hamiltonian.energy(q0, p0)
    problem = Problems(system, ensemble, case.hamiltonian, {}, 0.0, q0, p0, times[None], q[None], p[None], energy)
    return problem.at_sensors(sensors)


def shape_problems(shapes: Shapes, system: System, ensemble: Ensemble, sensors: tuple[int, ...], times: np.ndarray) -> Problems:
    """Problems without an ensemble at query times (T,); baselines may assume that they come from `ensemble`."""
    hamiltonians, q0, p0, truth = shapes
    q, p = truth(times)
    everyone, energy = np.tile(times, (len(q0), 1)), hamiltonians.energy(q0, p0)
    return Problems(system, ensemble, hamiltonians, {}, 0.0, q0, p0, everyone, q, p, energy).at_sensors(sensors)


def truth_floor(split: Split) -> float:
    """The mean total loss that perfect predictions could be charged with: integration error and rounding of the labels.

    A loss below it says nothing about a model. Of imported rows only the rounding is known.
    """
    unit = float(np.finfo(split.q.dtype).eps) / 2
    error = np.nan_to_num(split.integration_error).reshape(-1, *[1] * (split.q.ndim - 1))
    squares = [(error + unit * np.abs(states.astype(np.float64))) ** 2 for states in (split.q, split.p)]
    return float(0.5 * (squares[0] + squares[1]).mean())


def _split_state(initial: np.ndarray, system: System) -> tuple[np.ndarray, np.ndarray]:
    """q0 and p0, (N,) or (N, d), from initial states (N, 2d)."""
    q0, p0 = np.split(initial, 2, axis=1)
    return (q0[:, 0], p0[:, 0]) if system.degrees_of_freedom == 1 else (q0, p0)
