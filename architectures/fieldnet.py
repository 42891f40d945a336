"""FieldNet: it predicts the fields between the sensors of a plane, and a symplectic scheme follows the motion in them.

With two degrees of freedom there is no quadrature for an orbit. V between the sensors, and M⁻¹ where it depends on position, is still all
that they leave open, and the motion in what the network predicts is integrated by a method that is symplectic and differentiable, so that
the network is trained on trajectories alone.

With few sensors many potentials are possible, and chaos parts their motions. In expected squared error no prediction beats the mean of all
these motions (`num_pairs`), which is not the motion in any of them.

Shapes: B batch, C channels, (S1, S2) sensors, (F1, F2) points of the fine grid, T query times, D draws.
"""

from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, model_validator
from scipy.interpolate import make_interp_spline
from torch import Tensor

from ..physics.errors import InputError
from ..physics.solvers.spline_splittings import get_splitting
from .layers.basics import Float64Constants
from .layers.field_interpolation import FieldInterpolation
from .layers.plane_collocation import PlaneFields, cardinal_coefficients, cardinal_pieces, get_collocation, plane_motion
from .layers.spline_motion import spline_motion
from .operator import ArchitectureConfig, Operator, OperatorOutput
from .task import Task

_DEGREE = 5
_CHANNELS = 4  # V and three entries of a symmetric matrix
_MOST_WEIGHED = 2_500  # sensors, whose covariance is then 50 MB a row
_FOR_ANY_MASS = "gauss-legendre12"
_FURTHEST = 2.0  # that a reading's logarithm may be from the predicted one, and a predicted one above all readings
_LEAST_RATIO = 1e-5  # of V below the rim, over the envelope, where it is least and where it is most; random surfaces have 1e-3


class FieldNetConfig(ArchitectureConfig):
    name: Literal["fieldnet"] = "fieldnet"
    rim: float | None = Field(
        default=None,
        description="V on the whole boundary of the domain, where it is known and V is lower inside; the network then predicts the "
        "logarithm of V below it, or a bicubic spline where V is the rim inside too. Null: V may be anything",
    )
    periodic: bool = Field(default=False, description="the coordinates are angles and the domain a whole turn; not with a rim")
    num_fine: int = Field(default=61, ge=12, description="points along each axis of the grid on which V is predicted")
    length_scales: list[Annotated[float, Field(ge=0.005, le=100.0)]] = Field(
        default=[0.1, 0.12, 0.14, 0.16, 0.18, 0.21, 0.24, 0.28, 0.33, 0.38, 0.44, 0.51, 0.6],
        min_length=1,
        description="of the interpolants, over the domain's width",
    )
    noise: list[PositiveFloat] = Field(
        default=[1e-14],
        min_length=1,
        description="variances of the sensors' errors that the interpolants allow for, over that of V; with a rim, of its logarithm in the "
        "middle, as errors of the logarithm grow towards the rim",
    )
    sensor_noise: float | None = Field(
        default=None,
        ge=1e-6,
        description="standard deviation of the errors of V at the sensors, where that is what limits the prediction; each reading is then "
        "given its weight by the predicted V. Only with a rim",
    )
    width: int = Field(default=16, ge=1, description="channels of the convolutions that correct V")
    num_layers: int = Field(default=3, ge=1, description="convolutions that correct V")
    method: Literal["stormer-verlet", "yoshida4", "blanes-moan4", "blanes-moan6", "gauss-legendre12"] = Field(
        default="blanes-moan6",
        description="gauss-legendre12 is for any mass; the others, which are faster, need unit mass",
    )
    num_steps: int = Field(
        default=120, ge=10, description="steps over the horizon; gauss-legendre12 needs enough for its iterations to converge"
    )
    num_pairs: int = Field(
        default=0,
        ge=0,
        le=256,
        description="pairs of potentials, drawn on either side of the predicted one as far as the sensors leave it open; the prediction is "
        "the mean of the motions in them. 0: the motion in the predicted one",
    )

    @model_validator(mode="after")
    def _the_rim_fits(self) -> Self:
        if self.periodic and self.rim is not None:
            raise ValueError(f"periodic is true; it must be false with a rim ({self.rim:g}), where the domain ends")
        if self.sensor_noise is not None and self.rim is None:
            raise ValueError(f"sensor_noise is {self.sensor_noise}; it needs a rim: without one every sensor has the same weight (noise)")
        return self

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
        assert isinstance(config, FieldNetConfig)
        if task.degrees_of_freedom != 2 or task.channels not in (1, _CHANNELS):
            return (
                "fieldnet supports two degrees of freedom and reads V, or V and three entries of an inverse mass matrix, so 1 or "
                f"{_CHANNELS} channels; this task has {task.degrees_of_freedom} and {task.channels}"
            )
        if task.channels == _CHANNELS and config.method != _FOR_ANY_MASS:
            return f"{config.method} needs unit mass, so that V is the only field; here set architecture.method to {_FOR_ANY_MASS}"
        if task.channels == _CHANNELS and config.rim is not None:
            return f"rim is {config.rim}, which is for V alone, as is sensor_noise; both must be null where the mass depends on position"
        if config.sensor_noise is not None and task.num_sensors > _MOST_WEIGHED:
            return (
                f"sensor_noise takes at most {_MOST_WEIGHED:,} sensors, as its cost goes as their cube; this task has {task.num_sensors:,}"
            )
        return None

    def __init__(self, config: FieldNetConfig, task: Task) -> None:
        super().__init__(config, task)
        sensors = [np.linspace(0.0, 1.0, count) for count in task.sensors]
        fine = [np.linspace(0.0, 1.0, config.num_fine)] * 2
        inside = slice(1, -1) if config.rim is not None else slice(None)
        inner = [x[inside] for x in sensors]
        self.field = FieldInterpolation(
            inner,
            fine,
            config.length_scales,
            config.noise,
            [np.ones(x.size) if config.rim is None else 1.0 / _bump(x) for x in inner],
            config.width,
            config.num_layers,
            config.num_pairs,
            noisy=config.sensor_noise is not None,
            periodic=config.periodic,
        )
        self.step = task.horizon / config.num_steps
        if config.method == _FOR_ANY_MASS:
            to_coefficients, self.pieces = cardinal_coefficients(config.num_fine), Float64Constants(pieces=cardinal_pieces())
        else:
            to_coefficients = make_interp_spline(fine[0], np.eye(config.num_fine), k=_DEGREE).c
        envelope, fine_envelope = (np.outer(*map(_bump, places)) for places in (inner, fine))
        splines = {
            f"spline_{axis}": make_interp_spline(x, np.eye(x.size), k=min(3, x.size - 1))(fine[axis]) for axis, x in enumerate(sensors)
        }
        self.exact = Float64Constants(to_coefficients=to_coefficients, envelope=envelope, fine_envelope=fine_envelope, **splines)

    def predict(self, fields: Tensor, times_BT: Tensor, initial_BK: Tensor) -> OperatorOutput:
        potentials = self.predict_potentials(fields)
        draws = potentials.shape[1]
        coefficients = (self.exact["to_coefficients"] @ potentials @ self.exact["to_coefficients"].T).flatten(0, 1)
        initial, times = (x.expand(len(potentials), -1).repeat_interleave(draws, dim=0) for x in (initial_BK, times_BT))
        states = self._follow(coefficients, initial, times)
        start = initial[::draws].unsqueeze(1)
        moved = (states.unflatten(0, (-1, draws)) - start.unsqueeze(1)).mean(dim=1)  # 0 at t = 0, where a mean of states may be rounded
        return self.output((start + moved).to(initial_BK.dtype), initial_BK.new_zeros(()))

    def _follow(self, coefficients: Tensor, initial: Tensor, times: Tensor) -> Tensor:
        """States (B, T, 4) from splines (B, C, ., .), initial states (B, 4) and times (B, T)."""
        config, domain = self.config, self.task.domain
        if config.method != _FOR_ANY_MASS:
            splitting = get_splitting(config.method, self.step)
            return spline_motion(coefficients.squeeze(1), initial, times, domain, _DEGREE, splitting)  # pyright: ignore[reportCallIssue]
        if coefficients.shape[1] == 1:  # unit mass
            ones = torch.ones_like(coefficients)
            coefficients = torch.cat([coefficients, ones, 0.0 * ones, ones], dim=1)
        plane = PlaneFields(coefficients, self.pieces["pieces"], domain)
        return plane_motion(plane, initial.double(), times.double(), self.step, config.num_steps, get_collocation())

    def predict_potentials(self, fields: Tensor) -> Tensor:
        """The fields on the fine grid (B, D, C, F1, F2) in float64, as often as they are drawn, from fields (B, C, S1, S2)."""
        if self.config.rim is not None:
            return self._predict_below(self.config.rim, fields).unsqueeze(2)
        mean, scale = self.potential_mean.double(), self.potential_scale.double()
        found = self.field(((fields.double() - mean) / scale).flatten(0, 1))
        found = found.unflatten(0, fields.shape[:2]).transpose(1, 2) * scale + mean
        return _keep_mass_positive(found, fields.double()) if self.task.channels == _CHANNELS else found

    def _predict_below(self, rim: float, fields: Tensor) -> Tensor:
        """V below a rim, (B, D, F1, F2)."""
        values = fields.squeeze(1).double()
        below = rim - values[:, 1:-1, 1:-1]
        if self.config.sensor_noise is not None:
            return self._below(rim, *self._logarithms_of_noisy(below, self.config.sensor_noise))
        # Where V reaches the rim inside, the logarithm is no field.
        scaled = below / self.exact["envelope"]
        has_logarithm = scaled.amin(dim=(1, 2), keepdim=True) > _LEAST_RATIO * scaled.amax(dim=(1, 2), keepdim=True)
        if self.training and not torch.compiler.is_compiling() and not has_logarithm.any():
            raise InputError(
                f"rim is {rim}, but no V of a batch is lower at all sensors inside; it must be that of V on the whole boundary"
            )
        readings = torch.where(has_logarithm, scaled, 1.0).log()
        found = self._below(rim, self.field(readings), readings)
        spline = self.exact["spline_0"] @ values @ self.exact["spline_1"].T
        return torch.where(has_logarithm.unsqueeze(1), found, spline.unsqueeze(1))

    def _below(self, rim: float, logarithms: Tensor, readings: Tensor) -> Tensor:
        """V (B, D, F1, F2) from its logarithms there and at the sensors. Where what is predicted makes no sense, V must still be finite."""
        highest = readings.amax(dim=(1, 2))[:, None, None, None] + _FURTHEST
        return rim - self.exact["fine_envelope"] * torch.minimum(logarithms, highest).exp()

    def _logarithms_of_noisy(self, below: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """On the fine grid (B, D, F1, F2), and as the sensors read them (B, S1, S2)."""
        envelope = self.exact["envelope"]

        def linearise(logarithm: Tensor) -> tuple[Tensor, Tensor]:
            """All readings of V have the same error. That of a logarithm is larger the nearer the predicted V is to the rim."""
            predicted = (envelope * logarithm.exp()).clamp(min=noise)
            return logarithm + ((below - predicted) / predicted).clamp(-_FURTHEST, _FURTHEST), (noise / predicted).square()

        readings = (below.clamp(min=noise) / envelope).log()
        return self.field(readings, linearise), readings


def _keep_mass_positive(found: Tensor, readings: Tensor) -> Tensor:
    """Predicted fields (B, D, 4, F1, F2) whose M⁻¹ has no eigenvalue below half the least at the sensors, of readings (B, 4, S1, S2)."""
    floor = 0.5 * _least_eigenvalue(readings).amin(dim=(1, 2)).clamp(min=0.0)[:, None, None, None]
    lift = (floor - _least_eigenvalue(found)).clamp(min=0.0)
    return found + torch.stack([0.0 * lift, lift, 0.0 * lift, lift], dim=2)


def _least_eigenvalue(fields: Tensor) -> Tensor:
    """Of M⁻¹, (..., n1, n2) from fields (..., 4, n1, n2)."""
    _, a, b, d = fields.unbind(dim=-3)
    return 0.5 * (a + d) - torch.hypot(0.5 * (a - d), b)


def _bump(x: np.ndarray) -> np.ndarray:
    """It vanishes at 0 and 1, and is 1 halfway; the product of two is the envelope of V below its rim."""
    return 4.0 * x * (1.0 - x)


ARCHITECTURE = FieldNet
