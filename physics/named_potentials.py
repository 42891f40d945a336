"""Textbook potentials on [0, 1] with V = 2 at both walls, where a particle starts at rest at q = 0.

Source of the list: arXiv 2410.20951. Where the motion has a closed form it is given, so that no
solver stands between a prediction and the truth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .reference import solve_smooth

Function = Callable[[Any], Any]
Motion = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class NamedPotential:
    """V and V' as functions of q; `motion` is the exact (q(t), p(t)) from (0, 0), if known in closed form."""

    name: str
    value: Function
    gradient: Function
    motion: Motion | None = None

    def truth(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q, p at sorted times (T,) from (0, 0): the closed form, else DOP853 at rtol 1e-13."""
        return self.motion(times) if self.motion else solve_smooth(self, 0.0, 0.0, times)


def _harmonic() -> NamedPotential:
    return NamedPotential(
        "harmonic",
        value=lambda q: 8.0 * (q - 0.5) ** 2,
        gradient=lambda q: 16.0 * (q - 0.5),
        motion=lambda t: (0.5 - 0.5 * np.cos(4.0 * t), 2.0 * np.sin(4.0 * t)),
    )


def _double_well() -> NamedPotential:
    return NamedPotential(
        "double-well",
        value=lambda q: 625 / 8 * (q - 0.2) ** 2 * (q - 0.8) ** 2,
        gradient=lambda q: 625 / 4 * (q - 0.2) * (q - 0.8) * (2.0 * q - 1.0),
    )


def _morse() -> NamedPotential:
    depth, a, rest = 8.0 / (np.sqrt(5.0) - 1.0) ** 2, 3.0 * np.log((1.0 + np.sqrt(5.0)) / 2.0), 1.0 / 3.0
    return NamedPotential(
        "morse",
        value=lambda q: depth * (1.0 - np.exp(-a * (q - rest))) ** 2,
        gradient=lambda q: 2.0 * depth * a * np.exp(-a * (q - rest)) * (1.0 - np.exp(-a * (q - rest))),
    )


def _pendulum() -> NamedPotential:
    theta = np.pi / 3.0
    g = 2.0 / (1.0 - np.cos(theta))
    return NamedPotential(
        "pendulum",
        value=lambda q: g * (1.0 - np.cos(2.0 * theta * (q - 0.5))),
        gradient=lambda q: 2.0 * theta * g * np.sin(2.0 * theta * (q - 0.5)),
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


def _triangular(name: str, kink: float) -> NamedPotential:
    """Straight slopes from both walls to V = 0 at `kink`: parabolas, period 2 for every kink.

    The speed rises to 2 at the kink, at t = kink, and falls to 0 at the far wall, at t = 1.
    """

    def motion(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        phase = np.mod(t, 2.0)
        way = np.where(phase < 1.0, phase, 2.0 - phase)  # the way back is the same, reversed
        rising = way < kink
        q = np.where(rising, way**2 / kink, 1.0 - (1.0 - way) ** 2 / (1.0 - kink))
        speed = np.where(rising, 2.0 * way / kink, 2.0 * (1.0 - way) / (1.0 - kink))
        return q, np.where(phase < 1.0, speed, -speed)

    return NamedPotential(
        name,
        value=lambda q: np.where(q < kink, 2.0 * (kink - q) / kink, 2.0 * (q - kink) / (1.0 - kink)),
        gradient=lambda q: np.where(q < kink, -2.0 / kink, 2.0 / (1.0 - kink)),
        motion=motion,
    )


NAMED_POTENTIALS: dict[str, NamedPotential] = {
    potential.name: potential
    for potential in (
        _harmonic(),
        _double_well(),
        _morse(),
        _pendulum(),
        _triangular("mirrored-free-fall", kink=0.5),
        _softened(),
        _triangular("asymmetric-triangular", kink=0.25),
    )
}
