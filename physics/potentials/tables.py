"""Potentials given as a table of measured or computed points (x, U), at places of the user's choice."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from ..errors import InputError

_FEWEST_POINTS = 4
_SUFFIXES = (".csv", ".txt", ".dat", ".npy")


@dataclass(frozen=True, eq=False)
class TablePotential:
    """The cubic spline with continuous second derivatives (not-a-knot ends) through the points of a table.

    Attributes
    ----------
    table
        (N, 2): places and U there, in any order.

    Raises
    ------
    InputError
        For fewer than four points, two at one place, and numbers that are not finite or too large to join.
    """

    table: np.ndarray

    def __post_init__(self) -> None:
        table = self.table
        if table.ndim != 2 or table.shape[1] != 2:
            raise InputError(f"table has shape {table.shape}; give (N, 2), rows of two numbers, x and U")
        if len(table) < _FEWEST_POINTS:
            raise InputError(f"table has {len(table)} points; an interpolation needs at least {_FEWEST_POINTS}")
        for row in np.flatnonzero(~np.isfinite(table).all(axis=1))[:1]:
            raise InputError(f"table has ({table[row, 0]}, {table[row, 1]}) in row {row + 1}; all numbers must be finite")
        places = np.sort(table[:, 0])
        for place in places[1:][np.diff(places) == 0.0][:1]:
            raise InputError(f"table has two values at x = {place:g}; give one")
        try:
            with np.errstate(all="ignore"):
                is_finite = np.isfinite(self._spline.c).all()
        except ValueError:  # of SciPy, where slopes overflow
            is_finite = False
        if not is_finite:
            raise InputError(f"table has numbers up to {np.abs(table).max():.3g}, and a spline through them overflows; change the units")

    @property
    def domain(self) -> tuple[float, float]:
        """From the first place to the last."""
        return float(self.table[:, 0].min()), float(self.table[:, 0].max())

    @cached_property
    def _spline(self) -> CubicSpline:
        try:
            with np.errstate(all="ignore"):
                return CubicSpline(*self.table[np.argsort(self.table[:, 0])].T)
        except (ValueError, np.linalg.LinAlgError):  # of numbers that overflow on the way
            low, high = self.domain
            raise InputError(f"table has no finite spline through its points from {low:g} to {high:g}; choose other units") from None

    def value(self, q: np.ndarray) -> np.ndarray:
        """U at positions of any shape, float64."""
        return self._spline(q)

    def gradient(self, q: np.ndarray) -> np.ndarray:
        """dU/dx in the shape of q."""
        return self._spline(q, 1)


def is_table_path(text: str) -> bool:
    """Whether a text names a file of a table, and is no formula."""
    return text.lower().endswith(_SUFFIXES)


def read_table(path: str | Path) -> TablePotential:
    """A table from a file: .npy with an array (N, 2), or text with two columns apart by commas, semicolons or blanks.

    Text may have comments after # and one line of names above the numbers.

    Raises
    ------
    InputError
        Where the file cannot be read as such a table; the message names it.
    """
    path = Path(path)
    name = f"table {str(path)!r}"
    try:
        if path.suffix.lower() == ".npy":
            return TablePotential(np.asarray(np.load(path, allow_pickle=False), dtype=np.float64))
        return TablePotential(np.array(_read_lines(path.read_text(encoding="utf-8-sig"), name)))
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name} is no text; give two columns of numbers, x and U, or a .npy file") from None
    except InputError:
        raise
    except ValueError as error:  # of NumPy, for what is no array of numbers
        raise InputError(f"{name} cannot be read: {error}; give an array (N, 2) of numbers, x and U") from None


def _read_lines(text: str, name: str) -> list[list[float]]:
    rows: list[list[float]] = []
    filled = [(number, line.partition("#")[0]) for number, line in enumerate(text.splitlines(), start=1)]
    filled = [(number, re.split(r"[\s,;]+", line.strip())) for number, line in filled if line.strip()]
    for place, (number, words) in enumerate(filled):
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            if place > 0:  # else a line of names
                raise InputError(f"{name} has {' '.join(words)[:60]!r} in line {number}; give two numbers, x and U") from None
            continue
        if len(words) != 2:
            raise InputError(f"{name} has {len(words)} numbers in line {number}; give two, x and U")
    return rows
