"""Motion of two degrees of freedom whose kinetic energy depends on position, differentiable by all that it depends on.

    q' = M⁻¹(q) p,    p' = -∂H/∂q,    H = pᵀ M⁻¹(q) p / 2 + V(q)

V and the entries 11, 12 and 22 of M⁻¹ are splines. Each step is Gauss collocation, which is symplectic for any Hamiltonian: with s stages
it has order 2s, and its polynomial gives the state at any time within the step (Hairer, Lubich & Wanner, Geometric Numerical
Integration, II.1.3 and VI.4). Its equations are solved by fixed-point iterations that begin with the polynomial of the step before.

Shapes: B batch, T query times, N steps, s stages, C channels (V, then the three entries), (F1, F2) points of a grid.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import Polynomial, legendre
from scipy.interpolate import BSpline, make_interp_spline
from torch import Tensor

from ...physics.potentials.tensor_splines import SPRING, Domain

_DEGREE = 5
_WIDTH = _DEGREE + 1
_STAGES = 6
_ITERATIONS = 6  # with 120 steps over ten units of time of double pendulums, as good as ten


class Collocation(NamedTuple):
    """Gauss collocation on [0, 1]: integrals (s, s) of the stages' Lagrange polynomials to each stage, their coefficients (s, s + 1) by
    rising powers, and their values (s, s) at the stages of the next step.
    """

    integrals: np.ndarray
    powers: np.ndarray
    onwards: np.ndarray


@cache
def get_collocation() -> Collocation:
    places = 0.5 * (legendre.leggauss(_STAGES)[0] + 1.0)
    lagrange = []
    for stage in range(_STAGES):
        others = np.delete(places, stage)
        lagrange.append(Polynomial.fromroots(others) / np.prod(places[stage] - others))
    integrals = [polynomial.integ() for polynomial in lagrange]
    return Collocation(
        np.array([[integral(place) for integral in integrals] for place in places]),
        np.array([integral.coef for integral in integrals]),
        np.array([[polynomial(1.0 + place) for polynomial in lagrange] for place in places]),
    )


def cardinal_coefficients(count: int) -> np.ndarray:
    """What makes values at `count` uniform places the coefficients (count + 4, count) of their not-a-knot spline by uniform B-splines."""
    places = np.arange(count, dtype=float)
    dense = np.linspace(0.0, count - 1.0, _WIDTH * (count - 1) + 1)
    knots = np.arange(-_DEGREE, count + _DEGREE, dtype=float)
    basis = BSpline.design_matrix(dense, knots, _DEGREE).toarray()
    return np.linalg.lstsq(basis, make_interp_spline(places, np.eye(count), k=_DEGREE)(dense))[0]


def cardinal_pieces() -> np.ndarray:
    """The uniform B-splines on one cell, (6, 6): of each that does not vanish there, coefficients by rising powers of the place."""
    knots = np.arange(-_DEGREE, _WIDTH + 1, dtype=float)
    nodes = np.linspace(0.0, 1.0, _WIDTH)
    values = BSpline.design_matrix(nodes, knots[: 2 * _WIDTH], _DEGREE).toarray()
    return np.linalg.solve(np.vander(nodes, increasing=True), values).T


class PlaneFields(NamedTuple):
    """Splines of a batch by uniform B-splines: `coefficients` (B, C, F1 + 4, F2 + 4) over `domain`, and `pieces` of `cardinal_pieces`."""

    coefficients: Tensor
    pieces: Tensor
    domain: Domain

    def rates(self, states: Tensor) -> Tensor:
        """Rates (B, s, 4) of states (B, s, 4). Beyond the domain the fields are those of the nearest point in it, and springs pull back."""
        low, high = states.new_tensor(self.domain).T
        q, p = states.split(2, dim=-1)
        inside = q.clamp(low, high)
        terms = self._terms(inside, low, high)
        (v, a, b, d), p1, p2 = terms.unbind(dim=2), p[..., 0], p[..., 1]
        kinetic = (0.5 * p1 * p1).unsqueeze(-1) * a + (p1 * p2).unsqueeze(-1) * b + (0.5 * p2 * p2).unsqueeze(-1) * d
        force = -(v + kinetic)[..., 1:] * (q == inside) - SPRING * (q - inside)
        velocity = torch.stack([a[..., 0] * p1 + b[..., 0] * p2, b[..., 0] * p1 + d[..., 0] * p2], dim=-1)
        return torch.cat([velocity, force], dim=-1)

    def _terms(self, places: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Values and slopes (B, s, C, 3) at places (B, s, 2) in the domain."""
        cells = torch.tensor(self.coefficients.shape[2:], device=places.device) - _DEGREE
        per_unit = cells / (high - low)
        scaled = (places - low) * per_unit
        cell = torch.minimum(scaled.detach().floor().long(), cells - 1)
        powers = torch.arange(_WIDTH, device=places.device)
        x = (scaled - cell).unsqueeze(-1)
        basis = x**powers @ self.pieces.T
        slopes = (powers[1:] * x ** powers[:-1]) @ self.pieces[:, 1:].T * per_unit.unsqueeze(-1)
        rows, columns = (cell[..., axis, None] + powers for axis in range(2))
        flat = rows.unsqueeze(-1) * self.coefficients.shape[3] + columns.unsqueeze(-2)
        batch, channels = self.coefficients.shape[:2]
        index = flat.reshape(batch, 1, -1).expand(-1, channels, -1)
        near = self.coefficients.flatten(2).gather(2, index).unflatten(2, flat.shape[1:])
        along_y = torch.stack([basis[..., 1, :], slopes[..., 1, :]], dim=-1)
        lines = (near @ along_y.unsqueeze(1)).movedim(1, 2)  # (B, s, C, 6, 2)
        values, slopes_y = (basis[..., 0, None, None, :] @ lines).squeeze(-2).unbind(-1)
        slopes_x = (slopes[..., 0, None, None, :] @ lines[..., :1]).flatten(-2).squeeze(-1)
        return torch.stack([values, slopes_x, slopes_y], dim=-1)


def plane_motion(fields: PlaneFields, initial: Tensor, times: Tensor, step: float, num_steps: int, collocation: Collocation) -> Tensor:
    """States (B, T, 4) at times (B, T) up to `num_steps` steps, from initial states (B, 4), all in float64."""
    integrals, powers, onwards = (torch.from_numpy(x).to(initial) for x in collocation)
    state, slopes = initial, fields.rates(initial.unsqueeze(1)).expand(-1, _STAGES, -1)
    starts, of_steps = [], []
    for number in range(num_steps):
        if number:
            slopes = onwards @ slopes
        for _ in range(_ITERATIONS):
            slopes = fields.rates(state.unsqueeze(1) + step * (integrals @ slopes))
        starts.append(state)
        of_steps.append(slopes)
        state = state + step * (powers.sum(dim=1) @ slopes)
    number = (times / step).detach().floor().long().clamp(0, num_steps - 1)
    since = times / step - number
    weights = since.unsqueeze(-1) ** torch.arange(_STAGES + 1, device=times.device) @ powers.T
    rows = torch.arange(len(initial), device=initial.device).unsqueeze(1)
    slopes = torch.stack(of_steps, dim=1)[rows, number]
    return torch.stack(starts, dim=1)[rows, number] + step * (weights.unsqueeze(-2) @ slopes).squeeze(-2)
