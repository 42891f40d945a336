"""The orbit of a particle in one dimension by quadrature: no network, or with V between the sensors from one.

A particle of unit mass and energy E passes q with abs(p) = sqrt(2 (E - V(q))) and takes dq / abs(p) for dq. Its motion is
periodic between two turning points, and the angle of the motion (Arnold, Mathematical Methods of Classical Mechanics,
section 50) grows evenly with time; the position with that angle is q. One quadrature gives the speed at each sensor, the angle,
and q and p at all query times. It is differentiable, so that a network can learn V between the sensors from trajectories.

Shapes: B batch, S sensors, I intervals between them, G grid points, C cells between these, T query times, F features.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...physics.errors import InputError
from ..task import Task

_TINY = 1e-12
_SHORTEST_HALF_PERIOD = 1e-3  # of a particle at rest, whose period is that of no motion
_SLOW = 1e-9  # twice a kinetic energy below which a speed has no slope, which at rest would have no bound


class Fineness(NamedTuple):
    """`cells` between two sensors, and the sensors that a local polynomial goes through, fewer where there are fewer."""

    cells: int
    nodes: int


# Saved weights were trained with these values and no model folder stores them, so they must not change.
COARSE = Fineness(4, 4)  # enough for the angle: networks learn no better with a finer grid


def fine(num_sensors: int) -> Fineness:
    """For q and p: about 3,200 cells in all. With twice as many, networks that correct V learn no better."""
    return Fineness(-(-3168 // (num_sensors - 1)), 6)


class Orbit(NamedTuple):
    """The orbit through an initial state.

    speed (B, S), 0 where the particle cannot be; angle (B, S) of the sensors on the way to the right, from 0 at the left
    turning point to pi at the right one; start (B, 1), the angle at t = 0, negative on the way to the left; rate (B, 1), in
    radians per unit of time, positive. At the grid's points, `kinetic` (B, G) is twice the kinetic energy, negative where the particle
    cannot be, and `elapsed` (B, G) the time since the left turning point, which never falls. The grid begins at q = `left` and
    its cells are `width` wide.
    """

    speed: Tensor
    angle: Tensor
    start: Tensor
    rate: Tensor
    kinetic: Tensor
    elapsed: Tensor
    left: float
    width: float

    def angle_at(self, times_BT: Tensor) -> Tensor:
        """The angle of the motion at query times, (B, T)."""
        return self.start + self.rate * times_BT

    def state_at(self, times_BT: Tensor) -> Tensor:
        """(q, p) at query times, (B, T, 2). The force is constant in a cell, so q is a parabola of time there."""
        turn_BT = torch.remainder(self.angle_at(times_BT), 2.0 * math.pi)
        on_the_way_back_BT = turn_BT > math.pi
        time_BT = torch.where(on_the_way_back_BT, 2.0 * math.pi - turn_BT, turn_BT) / self.rate
        elapsed_BG = self.elapsed.detach()
        # Of points with one elapsed time the last begins the cell; the time of the right turning point belongs to the end of a cell.
        last_B1 = (elapsed_BG < elapsed_BG[:, -1:]).sum(dim=1, keepdim=True) - 1
        cell_BT = torch.minimum(torch.searchsorted(elapsed_BG, time_BT.detach(), right=True) - 1, last_B1)
        left_BT, right_BT = self.kinetic.gather(1, cell_BT), self.kinetic.gather(1, cell_BT + 1)
        since_BT = time_BT - self.elapsed.gather(1, cell_BT)
        force_BT, speed_BT = (right_BT - left_BT) / (2.0 * self.width), speed(left_BT)
        # The fraction of the cell to the left of a turning point.
        out_of_reach_BT = (-left_BT / (right_BT - left_BT).abs().clamp(min=_TINY)).clamp(0.0, 1.0)
        q_BT = self.left + (cell_BT + out_of_reach_BT) * self.width + since_BT * (speed_BT + 0.5 * force_BT * since_BT)
        p_BT = speed_BT + force_BT * since_BT
        return torch.stack([q_BT, torch.where(on_the_way_back_BT, -p_BT, p_BT)], dim=-1)


class OrbitFinder(nn.Module):
    """V at the S sensors of a task, in its own units, (B, S), and (q0, p0) (B, 2) -> Orbit.

    V is interpolated on a fine grid by local polynomials, to which a `correction` (B, G) may be added, and then taken as linear in
    each cell, where the time of passage is exact, turning points included. A second well is left out where a barrier that the
    grid resolves keeps the particle from it.
    """

    neighbours: Tensor
    weights: Tensor

    def __init__(self, task: Task, fineness: Fineness | None = None) -> None:
        super().__init__()
        assert task.degrees_of_freedom == task.channels == 1
        num_sensors, ((self._left, right),) = task.num_sensors, task.domain
        fineness = fineness or fine(num_sensors)
        self._length, self._cells_per_interval = right - self._left, fineness.cells
        neighbours, weights = _local_polynomials(num_sensors, fineness)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def refine(self, potential_BS: Tensor, correction_BG: Tensor | None = None) -> Tensor:
        """V at the grid's points, (B, G)."""
        refined_BIC = _sum_of_products(potential_BS[:, self.neighbours.T], self.weights)
        refined_BG = torch.cat([refined_BIC.flatten(1), potential_BS[:, -1:]], dim=1)
        return refined_BG if correction_BG is None else refined_BG + correction_BG

    def forward(self, potential_BS: Tensor, initial_B2: Tensor, correction_BG: Tensor | None = None) -> Orbit:
        potential_BG = self.refine(potential_BS, correction_BG)
        num_cells = potential_BG.shape[1] - 1
        q0_B1, p0_B1 = initial_B2.split(1, dim=1)
        place_B1 = ((q0_B1 - self._left) / self._length * num_cells).clamp(0, num_cells)
        cell_B1 = place_B1.detach().long().clamp(max=num_cells - 1)
        within_B1, width = place_B1 - cell_B1, self._length / num_cells
        left_B1, right_B1 = potential_BG.gather(1, cell_B1), potential_BG.gather(1, cell_B1 + 1)
        # Twice the kinetic energy at the grid points, negative where the particle cannot be.
        kinetic_BG = p0_B1.square() + 2.0 * (left_B1 + within_B1 * (right_B1 - left_B1) - potential_BG)
        passage_BC = passage_time(kinetic_BG[:, :-1], kinetic_BG[:, 1:], width)
        passage_BC = passage_BC * _connected(passage_BC > 0.0, cell_B1)
        at_rest_BC = (passage_BC.amax(dim=1, keepdim=True) == 0.0) & (torch.arange(num_cells, device=passage_BC.device) == cell_B1)
        passage_BC = torch.where(at_rest_BC, _SHORTEST_HALF_PERIOD, passage_BC)
        elapsed_BG = torch.cat([torch.zeros_like(q0_B1), passage_BC.cumsum(dim=1)], dim=1)
        rate_B1 = math.pi / elapsed_BG[:, -1:].clamp(min=_SHORTEST_HALF_PERIOD)
        partial_B1 = passage_time(kinetic_BG.gather(1, cell_B1), p0_B1.square(), within_B1 / (num_cells / self._length))
        start_B1 = (elapsed_BG.gather(1, cell_B1) + partial_B1) * rate_B1 * torch.where(p0_B1 < 0.0, -1.0, 1.0)
        at_sensors = slice(None, None, self._cells_per_interval)
        speed_BS = speed(kinetic_BG[:, at_sensors])
        return Orbit(speed_BS, elapsed_BG[:, at_sensors] * rate_B1, start_B1, rate_B1, kinetic_BG, elapsed_BG, self._left, width)


def quadrature_orbit(potential_BS: Tensor, times_BT: Tensor, initial_B2: Tensor, task: Task) -> Tensor:
    """The quadrature baseline: (q, p) (B, T, 2) in V interpolated from its sensors by local polynomials, without a network.

    Parameters
    ----------
    potential_BS, times_BT, initial_B2
        V at the sensors in its own units, query times, and initial states (q0, p0), in one floating-point type.
    task
        The sensors and their domain: one degree of freedom, of unit mass.

    Raises
    ------
    InputError
        Where the task has more than one degree of freedom or channel.
    """
    if task.degrees_of_freedom > 1 or task.channels > 1:
        raise InputError(
            "the quadrature baseline supports one degree of freedom and one channel; "
            f"this task has {task.degrees_of_freedom} and {task.channels}"
        )
    find_orbit = OrbitFinder(task).to(potential_BS)
    return find_orbit(potential_BS, initial_B2).state_at(times_BT)


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


class CorrectionBetweenSensors(nn.Module):
    """The correction of V at the grid's points, added to the local polynomials, (B, S, M) -> (B, G).

    In each interval it is a polynomial of `num_shapes` coefficients, predicted from the encoded sensors on its two sides. It
    vanishes at both, where V is known. Where sensors are not exact, a correction of each sensor is predicted too, and straight
    lines join them. Both are in units of the distance between sensors, as a fraction of the domain. Before training it is zero.
    """

    shapes: Tensor
    lines: Tensor

    def __init__(self, num_sensors: int, width: int, num_shapes: int, exact_sensors: bool = True) -> None:
        super().__init__()
        self.exact_sensors = exact_sensors
        self.say = _starting_at_zero(2 * width, width, num_shapes)  # saved weights have these names
        if not exact_sensors:
            self.say_of_sensor = _starting_at_zero(width, width, 1)
        x_C = np.arange(fine(num_sensors).cells) / fine(num_sensors).cells
        shapes_KC = 4.0 * x_C * (1.0 - x_C) * np.polynomial.legendre.legvander(2.0 * x_C - 1.0, num_shapes - 1).T / (num_sensors - 1)
        lines_2C = np.stack([1.0 - x_C, x_C]) / (num_sensors - 1)
        self.register_buffer("shapes", torch.tensor(shapes_KC, dtype=torch.float32), persistent=False)
        self.register_buffer("lines", torch.tensor(lines_2C, dtype=torch.float32), persistent=False)

    def forward(self, memory_BSM: Tensor) -> Tensor:
        coefficients_BIK = self.say(torch.cat([memory_BSM[:, :-1], memory_BSM[:, 1:]], dim=-1))
        if self.exact_sensors:
            return nn.functional.pad(_sum_of_products(coefficients_BIK, self.shapes).flatten(1), (0, 1))
        sensors_BS1 = self.say_of_sensor(memory_BSM)
        ends_BI2 = torch.cat([sensors_BS1[:, :-1], sensors_BS1[:, 1:]], dim=-1)
        correction_BIC = _sum_of_products(coefficients_BIK, self.shapes) + _sum_of_products(ends_BI2, self.lines)
        return torch.cat([correction_BIC.flatten(1), sensors_BS1[:, -1] * self.lines[0, 0]], dim=1)


def _sum_of_products(coefficients_BIK: Tensor, shapes: Tensor) -> Tensor:
    """(B, I, C), of shapes (K, C) or (K, I, C); no matrix product, which may be rounded to bfloat16 or TF32."""
    total_BIC = shapes.new_zeros(())
    for coefficients_BI, shape in zip(coefficients_BIK.unbind(-1), shapes, strict=True):
        total_BIC = total_BIC + coefficients_BI.unsqueeze(-1) * shape
    return total_BIC


def _starting_at_zero(width_in: int, width: int, num_outputs: int) -> nn.Sequential:
    hidden, last = nn.Linear(width_in, width), nn.Linear(width, num_outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(hidden, nn.GELU(), last)


def speed(kinetic: Tensor) -> Tensor:
    """The speed of a particle with twice the kinetic energy `kinetic`, 0 where it cannot be; differentiable but where it is slow."""
    moving = kinetic > _SLOW
    return torch.where(moving, torch.where(moving, kinetic, 1.0).sqrt(), kinetic.detach().clamp(min=0.0).sqrt())


def passage_time(left: Tensor, right: Tensor, width: Tensor | float) -> Tensor:
    """The time spent on a stretch of a given width along which twice the kinetic energy is linear, from `left` to `right`.

    Exact; where one end is out of reach the particle turns inside, and the time is that of one way.
    """
    speeds = speed(left) + speed(right)
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


def _local_polynomials(num_sensors: int, fineness: Fineness) -> tuple[Tensor, Tensor]:
    """Which N sensors a polynomial goes through in each of the I intervals between sensors, (N, I); their Lagrange weights, (N, I, C)."""
    nodes = range(min(fineness.nodes, num_sensors))
    interval_I = torch.arange(num_sensors - 1)
    first_I = (interval_I + 1 - len(nodes) // 2).clamp(0, num_sensors - len(nodes))
    x_IC = (interval_I - first_I).unsqueeze(1) + torch.arange(fineness.cells) / fineness.cells
    weights = [math.prod((x_IC - j) / (k - j) for j in nodes if j != k) for k in nodes]
    return torch.stack([first_I + k for k in nodes]), torch.stack([torch.as_tensor(w) for w in weights])
