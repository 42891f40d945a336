"""Surfaces on which the motion is known: two that separate, and two straight orbits on one that does not.

V = 2 on the whole rim of the square cannot be a sum of functions of x and of y, nor a function of the distance from the centre, all the
way to the rim. It can be within the region that a particle with E < 2 reaches, with V = 2 outside it: `Bowls`. These are no members
of the family of random surfaces, whose V is below 2 everywhere inside. The straight orbits are on a member, with g = 0; they are known
because the surface is symmetric about the line that each of them keeps to.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...compiled import compiled
from ...potentials.closed_forms import harmonic
from ...solvers.flows import Rates
from ...solvers.solve import QUADRATURE, solve
from ..base import NamedCase
from ..packed import PackedPotentials
from .surfaces import RIM, Surfaces

_MIDDLE = 0.5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)  # of the turn of angle between two times
_LONGEST = 0.05  # time over which it is integrated at once


@dataclass(frozen=True)
class Bowls(PackedPotentials):
    """H = |p|²/2 + V of R rows, V = 2 - depth (1 - s)^n for s < 1 and 2 beyond, with s = ((x - 1/2) / a)² + ((y - 1/2) / b)².

    `packed` (R, 4) holds depth, a, b and n >= 1. With n = 1 the coordinates are two oscillators, with a = b the force is central.
    """

    domain = ((0.0, 1.0), (0.0, 1.0))

    @property
    def flow(self) -> Rates:
        return _rates

    def gradient(self, q: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        depth, power, axes, below = self._below(q)
        return (2.0 * depth * power * below ** (power - 1.0) * (below > 0.0))[..., None] * (q - _MIDDLE) / axes**2, p

    def potential(self, q: np.ndarray) -> np.ndarray:
        depth, power, _, below = self._below(q)
        return RIM - depth * below**power

    def _below(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """depth and n as wide as q (R, ..., 2) without its components, (a, b) as wide as q, and 1 - s where that is positive."""
        depth, a, b, power = (column.reshape(-1, *[1] * (q.ndim - 2)) for column in self.packed.T)
        axes = np.stack([a, b], axis=-1)
        return depth, power, axes, np.maximum(1.0 - np.square((q - _MIDDLE) / axes).sum(axis=-1), 0.0)


@compiled()
def _rates(packed, y, out):
    """y = (q, p)."""
    depth, a, b, power = packed[0], packed[1], packed[2], packed[3]
    x, z = (y[0] - 0.5) / a, (y[1] - 0.5) / b
    below = 1.0 - x * x - z * z
    slope = -2.0 * depth * power * below ** (power - 1.0) if below > 0.0 else 0.0
    out[0], out[1], out[2], out[3] = y[2], y[3], slope * x / a, slope * z / b


def textbook_cases() -> list[NamedCase]:
    """`separable`: two oscillators; `central`: by angular momentum and a radial quadrature; `axis` and `diagonal`: straight orbits."""
    oscillators, round_bowl = (Bowls(np.array([row])) for row in ((2.5, 0.5, 0.35, 1.0), (3.0, 0.5, 0.5, 2.0)))
    product = Surfaces.from_modes(np.array([_DEPTH]), np.zeros((1, 1)))
    return [
        _case("separable", oscillators, (0.35, 0.6), (0.5, 0.7), _oscillate),
        _case("central", round_bowl, (0.8, 0.45), (0.4, 0.6), _revolve),
        _case("axis", product, (0.5, 0.2), (0.0, 0.5), _along_axis),
        _case("diagonal", product, (0.25, 0.25), (0.6, 0.6), _along_diagonal),
    ]


_DEPTH = 3.0  # of 2 - 3 w(x) w(y)


def _case(name: str, hamiltonian: Any, q0: tuple[float, float], p0: tuple[float, float], motion: Any) -> NamedCase:
    return NamedCase(name, "textbook", hamiltonian, q0, p0, partial(motion, hamiltonian, np.array(q0), np.array(p0)))


def _oscillate(bowl: Bowls, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V = 2 - depth + depth s: frequencies sqrt(2 depth) / a and sqrt(2 depth) / b."""
    depth, *axes, _ = bowl.packed[0]
    pairs = [harmonic(times, q0[k], p0[k], rest=_MIDDLE, frequency=np.sqrt(2.0 * depth) / axes[k]) for k in range(2)]
    q, p = (np.stack(columns, axis=-1) for columns in zip(*pairs, strict=True))
    return q, p


@dataclass(frozen=True)
class _Line:
    """A potential of one degree of freedom."""

    value: Any
    gradient: Any
    domain: tuple[float, float]
    breakpoints: tuple[float, ...] = ()


def _revolve(bowl: Bowls, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In polar coordinates about the centre: r moves in V + L²/2r², by quadrature, and the angle turns at the rate L/r²."""
    depth, radius, _, power = bowl.packed[0]
    arm = q0 - _MIDDLE
    r0, turning = float(np.hypot(*arm)), arm[0] * p0[1] - arm[1] * p0[0]

    def value(r: Any) -> Any:
        return RIM - depth * (1.0 - (r / radius) ** 2) ** power + 0.5 * (turning / r) ** 2

    def gradient(r: Any) -> Any:
        return 2.0 * depth * power * r / radius**2 * (1.0 - (r / radius) ** 2) ** (power - 1.0) - turning**2 / r**3

    nearest = 0.5 * abs(turning) / np.sqrt(2.0 * (depth + 0.5 * p0 @ p0))  # where the barrier alone is above any energy
    effective = _Line(value, gradient, (float(nearest), float(radius)))

    def radial(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(at.ravel())
        r, rate, _ = solve(effective, r0, float(arm @ p0 / r0), at.ravel()[order], method=QUADRATURE)
        back = np.argsort(order)
        return r[back].reshape(at.shape), rate[back].reshape(at.shape)

    # The angle: Gauss's rule on pieces of each interval between times.
    starts = np.concatenate([[0.0], times[:-1]])
    pieces = int(np.ceil(np.max(times - starts, initial=_LONGEST) / _LONGEST))
    half = 0.5 * (times - starts)[:, None, None] / pieces
    nodes = starts[:, None, None] + half * (2.0 * np.arange(pieces)[:, None] + 1.0 + _NODES)
    turns = (half * _WEIGHTS * turning / radial(nodes)[0] ** 2).sum(axis=(1, 2))
    angle = np.arctan2(arm[1], arm[0]) + np.cumsum(turns)
    r, rate = radial(times)
    outward, along = (np.stack(pair, axis=-1) for pair in ((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    return _MIDDLE + r[:, None] * outward, rate[:, None] * outward + (turning / r)[:, None] * along


def _along_axis(surface: Surfaces, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """On x = 1/2, V = 2 - 3 w(y) is harmonic, with frequency sqrt(8 * 3)."""
    y, momentum = harmonic(times, q0[1], p0[1], rest=_MIDDLE, frequency=np.sqrt(8.0 * _DEPTH))
    return np.stack([np.full_like(y, _MIDDLE), y], axis=-1), np.stack([np.zeros_like(y), momentum], axis=-1)


def _along_diagonal(surface: Surfaces, q0: np.ndarray, p0: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """On x = y, where |p|²/2 = x'², x moves in V(x, x) / 2 = 1 - 3 w(x)² / 2, by quadrature."""

    def value(x: Any) -> Any:
        return 1.0 - 8.0 * _DEPTH * (x * (1.0 - x)) ** 2

    def gradient(x: Any) -> Any:
        return -16.0 * _DEPTH * x * (1.0 - x) * (1.0 - 2.0 * x)

    x, momentum, _ = solve(_Line(value, gradient, (0.0, 1.0)), float(q0[0]), float(p0[0]), times, method=QUADRATURE)
    return np.stack([x, x], axis=-1), np.stack([momentum, momentum], axis=-1)
