"""Potentials given as Python functions of the coordinates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .programs import record

# Central differences of order 8: f'(x) = sum_k c_k (f(x + k h) - f(x - k h)) / h + O(h^8).
_WEIGHTS = np.array([4 / 5, -1 / 5, 4 / 105, -1 / 280])
_SHIFTS = np.arange(1, 5)


@dataclass(frozen=True)
class FunctionPotential:
    """V as a function of arrays, with its gradient by central differences of order 8.

    Attributes
    ----------
    function
        V(q) with one degree of freedom, V(q1, q2, ...) with more; takes float64 arrays of one shape and returns that shape. It
        must be defined four `steps` beyond the domain.
    steps
        Difference step of each coordinate, (d,).
    """

    function: Callable[..., Any]
    steps: tuple[float, ...]

    @property
    def program(self) -> np.ndarray | None:
        """The function as a program (`programs`), with exact derivatives; None where it is more than arithmetic and usual functions."""
        try:
            with np.errstate(all="ignore"):
                return record(self.function, len(self.steps))
        except Exception:  # whatever someone's function does with what is no array
            return None

    def value(self, q: np.ndarray) -> np.ndarray:
        """V at positions of any shape with one degree of freedom, (..., d) with more.

        Raises
        ------
        InputError
            Where the function does not take arrays, or its values are not finite.
        """
        q = np.asarray(q, dtype=np.float64)
        coordinates = [q] if len(self.steps) == 1 else list(np.moveaxis(q, -1, 0))
        shape = coordinates[0].shape
        try:
            with np.errstate(all="ignore"):
                values = np.broadcast_to(np.asarray(self.function(*coordinates), dtype=np.float64), shape)
        except (TypeError, ValueError) as error:
            raise InputError(f"potential {self.name} does not take arrays: {error}; write it with NumPy, or use numpy.vectorize") from None
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            place = ", ".join(f"{column.ravel()[bad[0]]:.6g}" for column in coordinates)
            raise InputError(f"potential {self.name} is {values.ravel()[bad[0]]} at q = {place}; it must be finite there")
        return values

    def gradient(self, q: np.ndarray) -> np.ndarray:
        """dV/dq in the shape of q; InputError as `value`."""
        q = np.asarray(q, dtype=np.float64)
        if len(self.steps) == 1:
            return self._slope(q, np.ones(()), self.steps[0])
        return np.stack([self._slope(q, axis, step) for axis, step in zip(np.eye(len(self.steps)), self.steps, strict=True)], axis=-1)

    def _slope(self, q: np.ndarray, axis: np.ndarray, step: float) -> np.ndarray:
        shifts = np.multiply.outer(step * np.concatenate([_SHIFTS, -_SHIFTS]), np.broadcast_to(axis, q.shape))
        forward, backward = np.split(self.value(q + shifts), 2)
        return np.tensordot(_WEIGHTS / step, forward - backward, axes=1)

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)
