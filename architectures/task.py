"""What a network is built for: the fields it reads and the motion it predicts, fixed by a system and a dataset."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..physics.errors import InputError

_FEWEST_SENSORS = 4  # along a coordinate: local cubics need as many


@dataclass(frozen=True)
class Task:
    """The shapes and ranges that a network must match. None of them is a configuration key.

    Parameters
    ----------
    sensors
        Number of sensors along each coordinate, such as (100,) or (24, 24).
    domain
        Range of each coordinate; sensors lie on a uniform grid over it, ends included.
    horizon
        Query times lie between 0 and this.
    channels
        Fields sampled at every sensor: V alone, or V and the entries of an inverse mass matrix.

    Raises
    ------
    InputError
        Where the number of sensors, the domain, the horizon or the number of channels makes no sense.
    """

    sensors: tuple[int, ...]
    domain: tuple[tuple[float, float], ...]
    horizon: float
    channels: int = 1

    def __post_init__(self) -> None:
        if len(self.sensors) != len(self.domain) or not self.domain:
            raise InputError(f"sensors is {self.sensors}; give one number for each of the {len(self.domain)} coordinates of the domain")
        if min(self.sensors) < _FEWEST_SENSORS:
            raise InputError(f"sensors is {self.sensors}; along each coordinate at least {_FEWEST_SENSORS} are needed")
        if not all(math.isfinite(left) and math.isfinite(right) and left < right for left, right in self.domain):
            raise InputError(f"domain is {self.domain}; each coordinate needs a finite range (left, right) with left < right")
        if not (math.isfinite(self.horizon) and self.horizon > 0.0):
            raise InputError(f"horizon is {self.horizon}; it must be positive and finite")
        if self.channels < 1:
            raise InputError(f"channels is {self.channels}; it must be at least 1")

    @property
    def degrees_of_freedom(self) -> int:
        return len(self.domain)

    @property
    def num_sensors(self) -> int:
        """Sensors of one field, along all coordinates together."""
        return math.prod(self.sensors)

    @property
    def field_shape(self) -> tuple[int, ...]:
        """Shape of one row's fields: (S,) for V along one coordinate, else (C, S1, ...)."""
        if self.degrees_of_freedom == 1 and self.channels == 1:
            return self.sensors
        return (self.channels, *self.sensors)

    def as_sequence(self, fields: Tensor) -> Tensor:
        """Fields of a batch as a sequence of L sensors, the last coordinate running fastest: (B, L, C)."""
        if len(self.field_shape) == 1:
            return fields.unsqueeze(-1)
        return fields.flatten(2).transpose(1, 2)

    def in_patches(self, size: int) -> "Task":
        """The task as read in blocks of `size` sensors along each coordinate: coarser sensors with more channels.

        Raises
        ------
        InputError
            Where the sensors along a coordinate are no multiple of `size`, or fewer than 4 blocks.
        """
        if any(count % size for count in self.sensors):
            raise InputError(f"patch_size is {size}; it must divide the sensors along each coordinate, {_numbers(self.sensors)}")
        blocks = tuple(count // size for count in self.sensors)
        if size > 1 and min(blocks) < _FEWEST_SENSORS:
            most = min(self.sensors) // _FEWEST_SENSORS
            raise InputError(f"patch_size is {size}; it leaves {min(blocks)} patches along a coordinate; give at most {most}")
        return replace(self, sensors=blocks, channels=self.channels * size**self.degrees_of_freedom)

    def cut_into_patches(self, fields: Tensor, size: int) -> Tensor:
        """Fields of a batch as those of `in_patches(size)`: (B, C, S1, ...) -> (B, C size^d, S1 / size, ...)."""
        if size == 1:
            return fields
        within = [part for count in self.sensors for part in (count // size, size)]
        split = fields.reshape(len(fields), self.channels, *within)  # (B, C, blocks, size, blocks, size, ...)
        axes = range(2, split.ndim)
        return split.permute(0, 1, *axes[1::2], *axes[::2]).flatten(1, 1 + self.degrees_of_freedom)

    def sensor_positions(self, left: float, right: float) -> Tensor:
        """Coordinates of the sensors in the order of `as_sequence`, each rescaled from its domain to [left, right]: (L, d)."""
        axes = [torch.linspace(left, right, count) for count in self.sensors]
        return torch.stack([grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")], dim=-1)


def _numbers(counts: tuple[int, ...]) -> str:
    return " and ".join(map(str, dict.fromkeys(counts)))
