"""What conservation of energy says of an orbit before any network: the speed at each sensor and the angle of the motion.

A particle of energy E passes q with abs(p) = sqrt(2 (E - V(q))) and takes dq / abs(p) for dq. Its motion is periodic between
two turning points, and the angle of the motion (Arnold, Mathematical Methods of Classical Mechanics,
section 50) grows evenly with time. Both are read off the sensors here, by one coarse quadrature for all query times. They are
inputs, not answers: the network corrects what they get wrong, and gives q and p.

Shapes: B batch, S sensors, G grid points, C cells between them, T query times, F features.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

_REFINEMENT = 4  # cells between two sensors
_TINY = 1e-12
_SHORTEST_HALF_PERIOD = 1e-3  # of a particle at rest, whose period is that of no motion


class Orbit(NamedTuple):
    """The orbit through a start, as far as the sensors tell.

    speed (B, S), 0 where the particle cannot be; angle (B, S) of the sensors on the way to the right, from 0 at the left
    turning point to pi at the right one; start (B, 1), the angle at t = 0, negative on the way to the left; rate (B, 1), in
    radians a unit of time, positive.
    """

    speed: Tensor
    angle: Tensor
    start: Tensor
    rate: Tensor

    def angle_at(self, times_BT: Tensor) -> Tensor:
        """The angle of the motion at query times, (B, T)."""
        return self.start + self.rate * times_BT


class OrbitFinder(nn.Module):
    """V at S uniform sensors on [0, 1], in its own units, (B, S), and (q0, p0) (B, 2) -> Orbit.

    V is refined by local cubics and then taken as linear in each cell, where the time of passage is exact, turning points
    included. A second well is left out where a barrier that the grid can see keeps the particle from it.
    """

    neighbours: Tensor
    weights: Tensor

    def __init__(self, num_sensors: int) -> None:
        super().__init__()
        neighbours, weights = _local_cubics(num_sensors)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, potential_BS: Tensor, initial_B2: Tensor) -> Orbit:
        # Sums of products and no matrix product: those may be rounded to bfloat16 or TF32.
        potential_BG = (potential_BS[:, self.neighbours] * self.weights).sum(dim=-1)
        num_cells = potential_BG.shape[1] - 1
        q0_B1, p0_B1 = initial_B2.split(1, dim=1)
        place_B1 = (q0_B1 * num_cells).clamp(0, num_cells)
        cell_B1 = place_B1.detach().long().clamp(max=num_cells - 1)
        share_B1 = place_B1 - cell_B1
        left_B1, right_B1 = potential_BG.gather(1, cell_B1), potential_BG.gather(1, cell_B1 + 1)
        # Twice the kinetic energy at the grid points, negative where the particle cannot be.
        kinetic_BG = p0_B1.square() + 2.0 * (left_B1 + share_B1 * (right_B1 - left_B1) - potential_BG)
        passage_BC = passage_time(kinetic_BG[:, :-1], kinetic_BG[:, 1:], 1.0 / num_cells)
        passage_BC = passage_BC * _connected(passage_BC > 0.0, cell_B1)
        elapsed_BG = torch.cat([torch.zeros_like(q0_B1), passage_BC.cumsum(dim=1)], dim=1)
        rate_B1 = math.pi / elapsed_BG[:, -1:].clamp(min=_SHORTEST_HALF_PERIOD)
        partial_B1 = passage_time(kinetic_BG.gather(1, cell_B1), p0_B1.square(), share_B1 / num_cells)
        start_B1 = (elapsed_BG.gather(1, cell_B1) + partial_B1) * rate_B1 * torch.where(p0_B1 < 0.0, -1.0, 1.0)
        at_sensors = slice(None, None, _REFINEMENT)
        speed_BS = kinetic_BG[:, at_sensors].clamp(min=0.0).sqrt()
        return Orbit(speed_BS, elapsed_BG[:, at_sensors] * rate_B1, start_B1, rate_B1)


class AngleFeatures(nn.Module):
    """Cosines and sines of the first multiples of an angle, (..., N) -> (..., N, 2 num_harmonics)."""

    harmonics: Tensor

    def __init__(self, num_harmonics: int) -> None:
        super().__init__()
        self.num_features = 2 * num_harmonics
        self.register_buffer("harmonics", torch.arange(1.0, num_harmonics + 1.0), persistent=False)

    def forward(self, angle: Tensor) -> Tensor:
        multiples = angle.unsqueeze(-1) * self.harmonics
        return torch.cat([multiples.cos(), multiples.sin()], dim=-1)


def passage_time(left: Tensor, right: Tensor, width: Tensor | float) -> Tensor:
    """The time spent on a stretch of a given width along which twice the kinetic energy is linear, from `left` to `right`.

    Exact; where one end is out of reach the particle turns inside, and the time is that of one way.
    """
    speeds = left.clamp(min=0.0).sqrt() + right.clamp(min=0.0).sqrt()
    crossing = 1.0 / (speeds + _TINY)
    turning = speeds / ((left - right).abs() + _TINY)
    return 2.0 * width * torch.where((left < 0.0) | (right < 0.0), turning, crossing) * (speeds > 0.0)


def _connected(open_BC: Tensor, cell_B1: Tensor) -> Tensor:
    """Which cells are reached from `cell_B1` through open ones, (B, C)."""
    index_C = torch.arange(open_BC.shape[1], device=open_BC.device)
    shut_BC = ~open_BC
    before_B1 = torch.where(shut_BC & (index_C < cell_B1), index_C, -1).amax(dim=1, keepdim=True)
    after_B1 = torch.where(shut_BC & (index_C > cell_B1), index_C, open_BC.shape[1]).amin(dim=1, keepdim=True)
    return (index_C > before_B1) & (index_C < after_B1)


def _local_cubics(num_sensors: int) -> tuple[Tensor, Tensor]:
    """Which four sensors a point of the refined grid lies among, (G, 4), and their Lagrange weights, (G, 4)."""
    place_G = torch.arange(_REFINEMENT * (num_sensors - 1) + 1) / _REFINEMENT
    first_G = (place_G.long() - 1).clamp(0, num_sensors - 4)
    x_G = place_G - first_G
    nodes = range(4)
    weights = [math.prod((x_G - j) / (k - j) for j in nodes if j != k) for k in nodes]
    return first_G.unsqueeze(1) + torch.arange(4), torch.stack([torch.as_tensor(w) for w in weights], dim=1)
