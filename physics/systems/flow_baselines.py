"""Baselines of systems with compiled equations: fixed steps and DOP853, on the exact Hamiltonian, on splines and on the prior fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..potentials.tensor_splines import Degree
from ..solvers.flow_steps import FLOW_SPLITTINGS, solve_flow_steps
from ..solvers.flows import solve_flow
from .baselines import Baseline, Reconstruction, States, roles
from .problems import Problems

if TYPE_CHECKING:
    from .compiled_flow import CompiledSystem

_TIGHT = 1e-10
_LADDER = (100, 200, 400, 800)  # steps over the horizon, of the points of the work-precision diagram
_TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)


@dataclass(frozen=True)
class FlowSteps(Baseline):
    """Steps of at most `step` between query times."""

    step: float = 0.01

    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        return _split(*solve_flow_steps(hamiltonians.flow, hamiltonians.packed, problems.initial, problems.times, self.method, self.step))


@dataclass(frozen=True)
class FlowDop853(Baseline):
    """Dormand's and Prince's method of order 8 with step control."""

    tolerance: float = _TIGHT

    def integrate(self, hamiltonians: Any, problems: Problems) -> States:
        return _split(*solve_flow(hamiltonians.flow, hamiltonians.packed, problems.initial, problems.times, self.tolerance))


def flow_baselines(system: "CompiledSystem", steps: Sequence[float]) -> list[Baseline]:
    """The oracle track first: each method on the exact Hamiltonian at each of `steps`.

    On the sensors the methods of fixed step take the first of `steps` alone: what a reconstruction lacks hides what smaller steps
    gain. Over hundreds of horizons run the symplectic method of highest order, on bicubic splines, and DOP853 on the best
    reconstruction, which is the prior fit where there is one.
    """
    splines = [_spline(system, "bicubic", 3), _spline(system, "biquintic", 5)]
    fits = system.prior_fits()
    methods = ("rk4", *FLOW_SPLITTINGS) if system.has_unit_mass else ("rk4", "gauss-legendre4")
    drawn = roles("table", "figures", "studies", "rollouts")
    found: list[Baseline] = [FlowSteps(f"{method}-oracle-{step:g}", method, step=step) for method in methods for step in steps]
    found.append(FlowDop853("dop853-oracle", "dop853"))
    for method in methods:
        name = f"{method}-bicubic-{steps[0]:g}"
        own = drawn if method == "rk4" else roles("table", "rollouts")
        own |= roles("sections") if method == methods[-1] else roles()
        found.append(FlowSteps(name, method, splines[0], own, step=steps[0]))
    reconstructions = [*splines, *fits]
    for reconstruction in reconstructions:
        own = drawn | roles("reconstructions") | (roles("sections") if reconstruction is reconstructions[-1] else roles())
        found.append(FlowDop853(f"dop853-{reconstruction.name}", "dop853", reconstruction, own))
    diagram = roles("work-precision")
    for reconstruction in (None, splines[0]):
        for method in methods:
            for step in (system.horizon / parts for parts in _LADDER):
                found.append(FlowSteps(f"{method} {step:g}", method, reconstruction, diagram, step=step))
        for tolerance in _TOLERANCES:
            found.append(FlowDop853(f"dop853 {tolerance:g}", "dop853", reconstruction, diagram, tolerance=tolerance))
    return found


def _spline(system: "CompiledSystem", name: str, degree: Degree) -> Reconstruction:
    def rebuild(problems: Problems) -> Any:
        fields = system.complete_fields(problems.fields) if problems.noise > 0.0 else problems.fields
        return system.splines(fields, degree)

    return Reconstruction(name, f"tensor-product splines of degree {degree}", rebuild, degree + 1)


def _split(states: np.ndarray, num_evaluations: np.ndarray) -> States:
    q, p = np.split(states, 2, axis=-1)
    return States(q, p, num_evaluations)
