"""FieldNet: it predicts V between the sensors of a plane, and a symplectic scheme follows the particle in it.

With two degrees of freedom there is no quadrature for an orbit. V between the sensors is still all that they leave open, and the motion
in the V that the network predicts is integrated by a method that is symplectic and differentiable, so that the network is trained on
trajectories alone.

With few sensors many potentials are possible, and chaos parts their motions. In expected squared error no prediction beats the mean of all
these motions (`num_pairs`), which is not the motion in any of them.

Shapes: B batch, (S1, S2) sensors, (F1, F2) points of the fine grid, T query times, D drawn potentials.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from scipy.interpolate import make_interp_spline
from torch import Tensor

from ..physics.solvers.spline_splittings import get_splitting
from .layers.basics import Float64Constants
from .layers.field_interpolation import FieldInterpolation
from .layers.spline_motion import spline_motion
from .operator import ArchitectureConfig, Operator, OperatorOutput
from .task import Task

_DEGREE = 5
_LEAST_RATIO = 1e-5  # of V below the rim, over the envelope, where it is least and where it is most; random surfaces have 1e-3


class FieldNetConfig(ArchitectureConfig):
    name: Literal["fieldnet"] = "fieldnet"
    rim: float | None = Field(
        default=None,
        description="V on the whole boundary of the domain, where it is known and V is lower inside; the network then predicts the "
        "logarithm of V below it, or a bicubic spline where V is the rim inside too. Null: V may be anything",
    )
    num_fine: int = Field(default=61, ge=12, description="points along each axis of the grid on which V is predicted")
    length_scales: list[PositiveFloat] = Field(
        default=[0.1, 0.12, 0.14, 0.16, 0.18, 0.21, 0.24, 0.28, 0.33, 0.38, 0.44, 0.51, 0.6],
        min_length=1,
        description="of the interpolants, over the domain's width",
    )
    noise: list[PositiveFloat] = Field(
        default=[1e-13, 1e-12], min_length=1, description="variances of the sensors' errors that the interpolants allow for, over that of V"
    )
    width: int = Field(default=16, ge=1, description="channels of the convolutions that correct V")
    num_layers: int = Field(default=3, ge=1, description="convolutions that correct V")
    method: Literal["stormer-verlet", "yoshida4", "blanes-moan4", "blanes-moan6"] = "blanes-moan6"
    num_steps: int = Field(default=120, ge=10, description="steps over the horizon")
    num_pairs: int = Field(
        default=0,
        ge=0,
        le=256,
        description="pairs of potentials, drawn on either side of the predicted one as far as the sensors leave it open; the prediction is "
        "the mean of the motions in them. 0: the motion in the predicted one",
    )

    @property
    def built_in(self) -> str:
        motion = "the motion, by a symplectic scheme, in"
        return f"the mean of {motion} potentials that it draws" if self.num_pairs else f"{motion} the V that it predicts"


class FieldNet(Operator):
    """An untrained network follows the motion in the average of the interpolants."""

    Config = FieldNetConfig
    config: FieldNetConfig

    @classmethod
    def why_not(cls, config: ArchitectureConfig, task: Task) -> str | None:
        if task.degrees_of_freedom != 2 or task.channels != 1:
            return (
                f"fieldnet supports two degrees of freedom with unit mass, so one channel, V; this task has {task.degrees_of_freedom} "
                f"and {task.channels}"
            )
        return None

    def __init__(self, config: FieldNetConfig, task: Task) -> None:
        super().__init__(config, task)
        sensors = [np.linspace(0.0, 1.0, count) for count in task.sensors]
        fine = [np.linspace(0.0, 1.0, config.num_fine)] * 2
        inside = slice(1, -1) if config.rim is not None else slice(None)
        self.field = FieldInterpolation(
            [x[inside] for x in sensors], fine, config.length_scales, config.noise, config.width, config.num_layers, config.num_pairs
        )
        self.splitting = get_splitting(config.method, task.horizon / config.num_steps)
        to_coefficients = make_interp_spline(fine[0], np.eye(config.num_fine), k=_DEGREE).c
        inner, outer = (_envelope(*places) for places in ([x[inside] for x in sensors], fine))
        splines = {
            f"spline_{axis}": make_interp_spline(x, np.eye(x.size), k=min(3, x.size - 1))(fine[axis]) for axis, x in enumerate(sensors)
        }
        self.exact = Float64Constants(to_coefficients=to_coefficients, envelope=inner, fine_envelope=outer, **splines)

    def predict(self, fields: Tensor, times_BT: Tensor, initial_BK: Tensor) -> OperatorOutput:
        potentials = self.predict_potentials(fields)
        coefficients = self.exact["to_coefficients"] @ potentials @ self.exact["to_coefficients"].T
        draws = coefficients.shape[1]
        motion = (self.task.domain, _DEGREE, self.splitting)
        repeated = (x.expand(len(coefficients), -1).repeat_interleave(draws, dim=0) for x in (initial_BK, times_BT))
        states = spline_motion(coefficients.flatten(0, 1), *repeated, *motion)  # pyright: ignore[reportCallIssue]
        states_BTK = states.unflatten(0, (-1, draws)).mean(dim=1)
        return self.output(states_BTK.to(initial_BK.dtype), initial_BK.new_zeros(()))

    def predict_potentials(self, fields: Tensor) -> Tensor:
        """V on the fine grid (B, D, F1, F2) in float64, as often as it is drawn, from fields (B, 1, S1, S2)."""
        rim = self.config.rim
        if rim is None:
            return self.field(self.normalise(fields).squeeze(1)) * self.potential_scale.double() + self.potential_mean.double()
        values = fields.double()
        below = (rim - values[..., 1:-1, 1:-1]) / self.exact["envelope"]
        # Where V reaches the rim inside, or noise lifts a reading to it, the logarithm is no field.
        has_logarithm = below.amin(dim=(2, 3), keepdim=True) > _LEAST_RATIO * below.amax(dim=(2, 3), keepdim=True)
        found = rim - self.exact["fine_envelope"] * self.field(torch.where(has_logarithm, below, 1.0).squeeze(1).log()).exp()
        return torch.where(has_logarithm, found, self.exact["spline_0"] @ values @ self.exact["spline_1"].T)


def _envelope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A product that vanishes on the boundary of the unit square, and is 1 in its middle."""
    return np.outer(4.0 * x * (1.0 - x), 4.0 * y * (1.0 - y))


ARCHITECTURE = FieldNet
