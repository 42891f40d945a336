"""Baselines: what a network is measured against. Each is one object, with a name, a track and a way to solve problems.

The *oracle* track integrates the exact Hamiltonian. The *sensors* track sees what a network sees and rebuilds the Hamiltonian
from it by a `Reconstruction`. The baselines here are general: they solve any system by fixed steps. A system with better
solvers brings its own.

Shapes: N problems, T query times, d degrees of freedom.
"""

import importlib
import pkgutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from . import generic
from .problems import Predictions, Problems, Rebuilt

if TYPE_CHECKING:
    from .base import System

Track = Literal["oracle", "sensors"]
# table: measured on every problem of a split and every named case. figures: drawn beside the model. studies: run in studies of
# many problems. rollouts: run over many horizons. sections: run over hundreds. reconstructions: integrates so tightly that its
# error is that of its reconstruction. work-precision: a point of the work-precision diagram.
Role = Literal["table", "figures", "studies", "rollouts", "sections", "reconstructions", "work-precision"]


def roles(*names: Role) -> frozenset[Role]:
    """A set of roles."""
    return frozenset(names)


class States(NamedTuple):
    """q, p of N problems, (N, T) or (N, T, d), and the forces evaluated, (N,)."""

    q: np.ndarray
    p: np.ndarray
    num_evaluations: np.ndarray


@dataclass(frozen=True)
class Reconstruction:
    """A way to rebuild Hamiltonians from their sensors.

    `rebuild(problems)` returns the Hamiltonians, `why_not(problems)` the reason where it cannot; `description` goes to reports.
    """

    name: str
    description: str
    rebuild: Callable[[Problems], Any]
    fewest_sensors: int
    assumes: Callable[[Problems], str | None] = lambda _: None  # a reason where an assumption does not hold

    def why_not(self, problems: Problems) -> str | None:
        """Why these problems cannot be rebuilt, as the end of a sentence; None where they can."""
        if min(problems.sensors) < self.fewest_sensors:
            return f"it needs {self.fewest_sensors} sensors along each axis, and the problems have {min(problems.sensors)}"
        return self.assumes(problems)

    def time(self, problems: Problems) -> Rebuilt:
        """The Hamiltonians of all problems at once, and the seconds that one took; a first call compiles."""
        self.rebuild(problems.take(slice(1)))
        started = time.perf_counter()
        hamiltonians = self.rebuild(problems)
        return Rebuilt(hamiltonians, (time.perf_counter() - started) / len(problems))


@dataclass(frozen=True)
class Baseline(ABC):
    """One solver. A subclass says how it integrates; `reconstruction` is None on the oracle track.

    `method` groups the points of one method in the work-precision diagram. `flops_per_evaluation` counts the floating-point
    operations of a force, where that is known.
    """

    name: str
    method: str
    reconstruction: Reconstruction | None = None
    roles: frozenset[Role] = roles("table")
    flops_per_evaluation: int | None = None

    @property
    def track(self) -> Track:
        return "oracle" if self.reconstruction is None else "sensors"

    def why_not(self, problems: Problems) -> str | None:
        """Why these problems cannot be solved, as the end of a sentence; None where they can."""
        if self.reconstruction is not None:
            return self.reconstruction.why_not(problems)
        return None if problems.has_exact_hamiltonians else "it integrates exact Hamiltonians, which imported rows do not have"

    @abstractmethod
    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        """The motion under `hamiltonians` from the initial states of `problems`, at their query times."""

    def solve(self, problems: Problems) -> Predictions:
        """Solve all problems at once. The time includes that of rebuilding the Hamiltonians, and no compilation."""
        rebuilt = self.rebuild(problems)
        self.integrate(rebuilt.hamiltonians.take(np.arange(1)), problems.take(slice(1)))
        started = time.perf_counter()
        q, p, num_evaluations = self.integrate(rebuilt.hamiltonians, problems)
        seconds = time.perf_counter() - started
        return Predictions(q, p, seconds / len(problems) + rebuilt.seconds_each, num_evaluations)

    def states(self, problems: Problems) -> States:
        """The same without a clock."""
        return self.integrate(self.rebuild(problems).hamiltonians, problems)

    def rebuild(self, problems: Problems) -> Rebuilt:
        """The Hamiltonians that this baseline integrates."""
        return problems.rebuilt(self.reconstruction) if self.reconstruction else Rebuilt(problems.hamiltonians, 0.0)


_STEPS_OF_ORDER_8 = 300  # over the horizon, on whose scale the motion changes: their error is far below that of a reconstruction
_LADDER = (100, 200, 400)  # steps over the horizon, of the points of the work-precision diagram


def with_role(baselines: Sequence[Baseline], role: Role) -> list[Baseline]:
    """The baselines that have `role`, in order."""
    return [baseline for baseline in baselines if role in baseline.roles]


def discover_baselines(package: ModuleType, steps: Sequence[float]) -> list[Baseline]:
    """What `baselines(steps)` of every module of a package returns, the oracle track first; modules without one are skipped."""
    modules = (importlib.import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__))
    found = [baseline for module in modules if hasattr(module, "baselines") for baseline in module.baselines(steps)]
    return sorted(found, key=lambda baseline: baseline.track != "oracle")


@dataclass(frozen=True)
class FixedSteps(Baseline):
    """Explicit Runge-Kutta steps of at most `step` between query times, for any Hamiltonian; all problems side by side."""

    scheme: generic.Scheme = generic.ORDER_8
    step: float = 0.01

    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        longest = float(np.diff(problems.times, axis=1, prepend=0.0).max())
        num_steps = max(1, int(np.ceil(longest / self.step)))
        with np.errstate(all="ignore"):  # a particle that has escaped may go anywhere
            q, p = generic.integrate(hamiltonians, problems.q0, problems.p0, problems.times, num_steps, self.scheme)
        cost = problems.times.shape[1] * num_steps * self.scheme.num_stages
        return States(q, p, np.full(len(problems), cost))


def general_baselines(system: "System", steps: Sequence[float]) -> list[Baseline]:
    """RK4 and steps of order 8 on the exact Hamiltonian, at each of `steps` and at a fraction of the horizon, and on splines.

    On splines RK4 takes the first of `steps` alone: what a spline lacks hides what smaller steps gain.
    """
    splines = Reconstruction("spline", "tensor-product cubic splines", lambda problems: system.from_sensors(problems.fields), 4)
    drawn, tight = roles("table", "figures", "studies", "rollouts"), system.horizon / _STEPS_OF_ORDER_8
    found: list[Baseline] = [FixedSteps(f"rk4-oracle-{step:g}", "rk4", scheme=generic.RK4, step=step) for step in steps]
    found.append(FixedSteps("dop853-oracle", "dop853", step=tight))
    found.append(FixedSteps(f"rk4-spline-{steps[0]:g}", "rk4", splines, drawn | roles("sections"), scheme=generic.RK4, step=steps[0]))
    found.append(FixedSteps("dop853-spline", "dop853", splines, drawn | roles("reconstructions"), step=tight))
    for reconstruction, method, scheme in ((None, "rk4", generic.RK4), (None, "dop853", generic.ORDER_8), (splines, "rk4", generic.RK4)):
        for step in (system.horizon / parts for parts in _LADDER):
            own = roles("work-precision")
            found.append(FixedSteps(f"{method} {step:g}", method, reconstruction, own, scheme=scheme, step=step))
    return sorted(found, key=lambda baseline: baseline.track != "oracle")
