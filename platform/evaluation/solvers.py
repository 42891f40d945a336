"""Solvers a network is measured against, in two tracks.

*oracle* knows V exactly; *sensors* sees what the network sees and interpolates it by a C2 cubic spline.
"""

from dataclasses import dataclass

import numpy as np

from ..physics import CurvePotential, NamedPotential, integrate

_PUBLISHED_STEP = 1e-4


@dataclass(frozen=True)
class Baseline:
    """A named solver; `track` is oracle or sensors."""

    name: str
    track: str
    method: str
    step: float

    def solve(
        self, exact: CurvePotential | NamedPotential, sensors: np.ndarray, q0: float, p0: float, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """q, p (T,) at sorted times (T,) from the exact potential or from V at the sensors (S,)."""
        potential = exact if self.track == "oracle" else CurvePotential.from_samples(sensors)
        return integrate(potential, q0, p0, times, method=self.method, max_step=self.step)


def default_baselines(steps: list[float]) -> list[Baseline]:
    """RK4 in both tracks at each step, and the published first-order scheme as it was run."""
    baselines = [Baseline(f"rk4-{track}-{step:g}", track, "rk4", step) for step in steps for track in ("oracle", "sensors")]
    return [*baselines, Baseline("rk4-as-published", "sensors", "rk4-as-published", _PUBLISHED_STEP)]
