"""The solvers a network is measured against, in two tracks.

*oracle* knows V exactly. *sensors* sees what the network sees and has to rebuild V from it: by an interpolant that
knows nothing of where V comes from, or by fitting the very family of curves that the problems are drawn from.
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...physics import Curves, NamedPotential, Solution, solve
from ...physics.potentials.interpolants import INTERPOLANTS
from ...physics.potentials.prior_fit import fit_prior
from ...physics.potentials.textbook import WALL_HEIGHT
from .problems import Problems

Track = Literal["oracle", "sensors"]
EXACT, PRIOR_FIT = "exact", "prior-fit"
ADAPTIVE_METHOD = "dop853"  # the only one that chooses its own steps
TIGHT = 1e-10  # the tolerance at which what is left of an error is the interpolant's
_PUBLISHED_STEP = 1e-4


@dataclass(frozen=True)
class Baseline:
    """A method, what it takes for V, and its time step or tolerance."""

    name: str
    method: str
    potential: str  # EXACT, PRIOR_FIT or one of INTERPOLANTS
    step: float | None = None
    tolerance: float | None = None

    @property
    def track(self) -> Track:
        return "oracle" if self.potential == EXACT else "sensors"


@dataclass(frozen=True)
class Reconstruction:
    """The potentials that solvers integrate, one a problem, and the time it took to build one, in seconds."""

    curves: Curves
    seconds: float


def reconstruct(potential: str, problems: Problems) -> Reconstruction:
    """V as a track has it.

    A fit makes use of the sensors' noise. Interpolants through noisy sensors are told that V = 2 at the walls, or else
    particles would escape.
    """
    if potential == EXACT:
        return Reconstruction(problems.exact, 0.0)
    _rebuild(potential, problems.sensors[:1], problems.noise)  # compiles
    started = time.perf_counter()
    curves = _rebuild(potential, problems.sensors, problems.noise, problems.control_points)
    return Reconstruction(curves, time.perf_counter() - started)


def _rebuild(potential: str, sensors: np.ndarray, noise: float, control_points: tuple[int, int] = (2, 7)) -> Curves:
    if potential != PRIOR_FIT:
        known = sensors.copy()
        if noise > 0.0:
            known[:, [0, -1]] = WALL_HEIGHT
        return Curves.from_samples(known, potential)
    fit = fit_prior(sensors, wall_height=WALL_HEIGHT, noise=noise, control_points=control_points)
    # What no curve of the family explains is none of it: whoever fits sees that, and takes the spline.
    if fit.explained.all():
        return fit.curves
    splines = Curves.from_samples(sensors[~fit.explained], "cubic")
    rows = np.arange(len(sensors))
    rows[~fit.explained] = len(sensors) + np.arange(len(splines))
    return Curves.join([fit.curves, splines]).take(rows)


def run_solver(baseline: Baseline, curves: Curves, problems: Problems) -> Solution:
    """q, p (N, T) and the forces evaluated, compiled, on all CPUs."""
    q0, p0 = problems.initial.T
    return solve(curves, q0, p0, problems.times, method=baseline.method, step=baseline.step, tolerance=baseline.tolerance)


def solve_named(
    baseline: Baseline, exact: NamedPotential, sensors: np.ndarray, start: tuple[float, float], times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """q, p (T,) of one textbook potential from V itself or from its sensors (S,)."""
    potential = exact if baseline.potential == EXACT else _rebuild(baseline.potential, sensors[None], 0.0)
    q, p, _ = solve(potential, *start, times, method=baseline.method, step=baseline.step, tolerance=baseline.tolerance)
    return q, p


def default_baselines(steps: list[float]) -> list[Baseline]:
    """Both tracks: fixed-step methods at each step; adaptive DOP853 on V, on every interpolant and on the fitted prior.

    And the first-order scheme behind the figures of arXiv 2410.20951, as it was run.
    """
    fixed = ["rk4", "stormer-verlet", "yoshida4", "gauss-legendre4"]
    oracle = [Baseline(f"{method}-oracle-{step:g}", method, EXACT, step) for method in fixed for step in steps]
    sensors = [Baseline(f"rk4-sensors-{step:g}", "rk4", "cubic", step) for step in steps]
    tight = [Baseline(f"dop853-{kind}", ADAPTIVE_METHOD, kind, tolerance=TIGHT) for kind in (*INTERPOLANTS, PRIOR_FIT)]
    published = Baseline("rk4-as-published", "rk4-as-published", "cubic", _PUBLISHED_STEP)
    return [*oracle, Baseline("dop853-oracle", ADAPTIVE_METHOD, EXACT, tolerance=TIGHT), *sensors, *tight, published]
