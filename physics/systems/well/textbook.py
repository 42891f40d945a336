"""Textbook potentials between walls, with V = 2 at q = 0 and q = 1, and families of them with kinks and jumps.

Source of the list: arXiv 2410.20951. Where the motion has a closed form, that is the reference, from any initial state;
elsewhere it is a quadrature, so that no time-stepper stands between a prediction and its reference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...errors import InputError
from ...potentials import closed_forms
from ...potentials.ramps import Ramps, piecewise_linear_ramps, step_ramps
from ...solvers.solve import QUADRATURE, solve
from .polygons import WALL_HEIGHT

Function = Callable[[Any], Any]
Motion = Callable[[np.ndarray, float, float], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class NamedPotential:
    """V and V' as functions of q on `domain`, smooth but at `breakpoints`.

    `motion(times, q0, p0)` is the exact (q(t), p(t)), if it is known in closed form.
    """

    name: str
    value: Function
    gradient: Function
    motion: Motion | None = None
    breakpoints: tuple[float, ...] = ()
    domain: tuple[float, float] = (0.0, 1.0)

    def truth(self, times: np.ndarray, q0: float = 0.0, p0: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """q, p at times >= 0 of any shape: the closed form, else by quadrature (which refuses orbits that leave the walls).

        InputError where an orbit is not defined, or escapes, or is too near a separatrix to be known.
        """
        times = np.asarray(times, dtype=np.float64)
        if self.motion is not None:
            return self.motion(times, float(q0), float(p0))
        q, p, _ = solve(self, q0, p0, times.ravel(), method=QUADRATURE)
        return q.reshape(times.shape), p.reshape(times.shape)


def power_law(exponent: float) -> NamedPotential:
    """V = 2 |2 q - 1|^exponent: a cusp below 1, free fall at 1, harmonic at 2, ever flatter beyond.

    The motion is an inverse incomplete beta function. V' at the bottom, where it may not exist, is given as 0.
    InputError unless 0.1 <= exponent <= 32.
    """
    if not 0.1 <= exponent <= 32.0:
        raise InputError(f"exponent is {exponent}; it must be from 0.1 to 32")

    def value(q: Any) -> Any:
        return WALL_HEIGHT * np.abs(2.0 * np.asarray(q) - 1.0) ** exponent

    def gradient(q: Any) -> Any:
        x = 2.0 * np.asarray(q) - 1.0
        distance = np.where(x == 0.0, 1.0, np.abs(x))
        return 2.0 * WALL_HEIGHT * exponent * np.sign(x) * distance ** (exponent - 1.0)

    breakpoints = () if exponent in (2.0, 4.0, 6.0, 8.0) else (0.5,)
    return NamedPotential(f"power-law-{exponent:g}", value, gradient, partial(closed_forms.power_law, exponent=exponent), breakpoints)


def piecewise_linear(points: Sequence[tuple[float, float]], name: str = "piecewise-linear") -> NamedPotential:
    """Straight lines through points (q, V) from (0, 2) to (1, 2), continued beyond the walls; the motion is parabolas.

    V jumps where two points share their q. InputError unless the points are at least 3, finite, in ascending order of q, and
    no three share theirs.
    """
    listed = [(float(q), float(v)) for q, v in points]
    q = np.array([point[0] for point in listed])
    if len(listed) < 3 or not np.all(np.isfinite(listed)) or not np.all(np.diff(q) >= 0.0):
        raise InputError(f"points are {listed}; at least 3 of finite numbers are needed, in ascending order of q")
    if np.any(q[2:] == q[:-2]) or q[1] == q[0] or q[-1] == q[-2]:
        raise InputError(f"points are {listed}; two may share their q, where V jumps, but not three, nor at a wall")
    if listed[0] != (0.0, WALL_HEIGHT) or listed[-1] != (1.0, WALL_HEIGHT):
        raise InputError(f"points run from {listed[0]} to {listed[-1]}; they must run from (0, 2) to (1, 2)")
    return _of_ramps(name, piecewise_linear_ramps(listed))


def steps(edges: Sequence[float], heights: Sequence[float], name: str = "steps") -> NamedPotential:
    """Level pieces: heights[i] between edges[i - 1] and edges[i], the walls at 0 and 1 counting as outer edges.

    V = 2 at and beyond the walls, so a particle with less energy is reflected there. At an edge p changes by
    conservation of energy, or is reversed where the energy is too low. A particle at rest stays at rest,
    also at (0, 0). V' is 0 everywhere: the force is all in the jumps, and no time-stepper can see it.

    InputError unless the edges rise strictly within (0, 1) and there is one more height than edges.
    """
    edges, heights = [float(x) for x in edges], [float(x) for x in heights]
    if not (np.all(np.diff([0.0, *edges, 1.0]) > 0.0) and np.all(np.isfinite(edges))):
        raise InputError(f"edges are {edges}; they must rise strictly within (0, 1)")
    if len(heights) != len(edges) + 1 or not np.all(np.isfinite(heights)):
        raise InputError(f"heights are {heights}; {len(edges) + 1} finite numbers are needed, one more than edges")
    return _of_ramps(name, step_ramps(edges, heights, WALL_HEIGHT))


def _of_ramps(name: str, ramps: Ramps) -> NamedPotential:
    return NamedPotential(name, ramps.value, ramps.gradient, ramps.motion, tuple(float(x) for x in ramps.edges))


def _harmonic() -> NamedPotential:
    return NamedPotential(
        "harmonic",
        value=lambda q: 8.0 * (q - 0.5) ** 2,
        gradient=lambda q: 16.0 * (q - 0.5),
        motion=partial(closed_forms.harmonic, rest=0.5, frequency=4.0),
    )


def _double_well() -> NamedPotential:
    return NamedPotential(
        "double-well",
        value=lambda q: 625 / 8 * (q - 0.2) ** 2 * (q - 0.8) ** 2,
        gradient=lambda q: 625 / 4 * (q - 0.2) * (q - 0.8) * (2.0 * q - 1.0),
        motion=partial(closed_forms.double_well, stiffness=625 / 8, half_gap=0.3, middle=0.5),
    )


def _morse() -> NamedPotential:
    depth, a, rest = 8.0 / (np.sqrt(5.0) - 1.0) ** 2, 3.0 * np.log((1.0 + np.sqrt(5.0)) / 2.0), 1.0 / 3.0
    return NamedPotential(
        "morse",
        value=lambda q: depth * (1.0 - np.exp(-a * (q - rest))) ** 2,
        gradient=lambda q: 2.0 * depth * a * np.exp(-a * (q - rest)) * (1.0 - np.exp(-a * (q - rest))),
        motion=partial(closed_forms.morse, depth=depth, decay=a, rest=rest),
    )


def _pendulum() -> NamedPotential:
    theta = np.pi / 3.0
    g = 2.0 / (1.0 - np.cos(theta))
    return NamedPotential(
        "pendulum",
        value=lambda q: g * (1.0 - np.cos(2.0 * theta * (q - 0.5))),
        gradient=lambda q: 2.0 * theta * g * np.sin(2.0 * theta * (q - 0.5)),
        motion=partial(closed_forms.pendulum, scale=2.0 * theta, height=g, rest=0.5),
    )


def _softened() -> NamedPotential:
    """Mirrored free fall with its kink rounded over a width of about 1/20."""
    scale = 4.0 * np.tanh(10.0)

    def gradient(q: Any) -> Any:
        x = np.asarray(q - 0.5)
        # (x / tanh 20x)' loses every digit near 0; its series there is 40x/3 to 1e-9.
        small = np.abs(x) < 1e-4
        u = 20.0 * np.where(small, 1.0, x)
        return scale * np.where(small, 40.0 * x / 3.0, 1.0 / np.tanh(u) - u / np.sinh(u) ** 2)

    def value(q: Any) -> Any:
        x = np.asarray(q - 0.5)
        safe = np.where(np.abs(x) < 1e-9, 1e-9, x)  # the limit at 0 is 1/20
        return scale * safe / np.tanh(20.0 * safe)

    return NamedPotential("softened", value, gradient)


NAMED_POTENTIALS: dict[str, NamedPotential] = {
    potential.name: potential
    for potential in (
        _harmonic(),
        _double_well(),
        _morse(),
        _pendulum(),
        # Straight slopes down to V = 0 at the kink: parabolas, of period 2 for every kink.
        piecewise_linear([(0.0, 2.0), (0.5, 0.0), (1.0, 2.0)], "mirrored-free-fall"),
        _softened(),
        piecewise_linear([(0.0, 2.0), (0.25, 0.0), (1.0, 2.0)], "asymmetric-triangular"),
    )
}
