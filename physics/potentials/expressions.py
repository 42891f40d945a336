"""Potentials written as text, such as "8*(q-0.5)**2": arithmetic and the usual functions of the coordinates, nothing else.

The coordinate is q with one degree of freedom; the coordinates are q1, q2, ... with several.
Parameters have names and numbers of their own.

The text is never executed, nor handed to Python's parser. It is read from left to right by a grammar of

    sum     = term (("+" | "-") term)*
    term    = signed (("*" | "/") signed)*
    signed  = ("+" | "-")* power
    power   = atom [("**" | "^") signed]
    atom    = number | coordinate | parameter | "pi" | "e" | function "(" sum ")" | "(" sum ")"

which is Python's precedence, and evaluated as it is read, so every fault is found at a known character and the
work is bounded by the length of the text.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from ..errors import InputError
from .programs import record

_MAX_LENGTH = 500
_MAX_DEPTH = 50
_WALL_AGREEMENT = 1e-9  # relative; two walls that differ by more are two heights
_TOKEN = re.compile(
    r"[ \t\r\n]*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>\*\*|[-+*/^()]))"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_CONSTANTS = {"pi": np.pi, "e": np.e}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": lambda x: np.where(x.real < 0, -x, x) if np.iscomplexobj(x) else np.abs(x),
}  # fmt: skip
_COMPLEX_STEP = 1e-30


@dataclass(frozen=True)
class Expression:
    """V(q) written as text, with its exact gradient, for one or more degrees of freedom d.

    Positions are arrays of any shape with d = 1, and (..., d) with more. Nothing is evaluated before `value` or `gradient`.

    Raises
    ------
    InputError
        For a parameter that is no finite number or whose name is no word, or has a meaning already.
    """

    text: str
    degrees_of_freedom: int = 1
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = {*self.coordinates, *_CONSTANTS, *_FUNCTIONS}
        for name, value in self.parameters.items():
            if not _NAME.fullmatch(name):
                raise InputError(f"parameter {name!r} is no name; use letters, digits and _, not beginning with a digit")
            if name in taken:
                raise InputError(f"parameter {name!r} has a meaning already; names in use are {', '.join(sorted(taken))}")
            if not np.isfinite(value):
                raise InputError(f"parameter {name} is {value}; it must be a finite number")

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The names that the text may use: q, or q1, q2, ..."""
        return ("q",) if self.degrees_of_freedom == 1 else tuple(f"q{axis + 1}" for axis in range(self.degrees_of_freedom))

    def value(self, q: np.ndarray) -> np.ndarray:
        """V at positions q.

        Raises
        ------
        InputError
            With the character (counted from 1) where the text stops making sense, or where V is not finite.
        """
        _check_length(self.text)
        return _evaluate(self.text, self._variables(q))

    def gradient(self, q: np.ndarray) -> np.ndarray:
        """dV/dq in the shape of q, exact to rounding: Im V(q + ih) / h with h = 1e-30 (Squire & Trapp, SIAM Review 40, 1998)."""
        _check_length(self.text)
        variables = self._variables(q)
        slopes = []
        for name in self.coordinates:
            with np.errstate(all="ignore"):
                shifted = variables | {name: variables[name] + 1j * _COMPLEX_STEP}
                slope = np.imag(_Reader(self.text, shifted).read()) / _COMPLEX_STEP
            slopes.append(np.broadcast_to(slope, variables[name].shape))
        return slopes[0].copy() if self.degrees_of_freedom == 1 else np.stack(slopes, axis=-1)

    @property
    def program(self) -> np.ndarray:
        """The text as a row of numbers that compiled code runs (`programs`); InputError as `value`."""
        _check_length(self.text)
        numbers = {name: np.float64(value) for name, value in self.parameters.items()}

        def formula(*coordinates: Any) -> Any:
            with np.errstate(all="ignore"):
                return _Reader(self.text, dict(zip(self.coordinates, coordinates, strict=True)) | numbers).read()

        return record(formula, self.degrees_of_freedom)

    def _variables(self, q: np.ndarray) -> dict[str, Any]:
        q = np.asarray(q, dtype=np.float64)
        columns = q[None] if self.degrees_of_freedom == 1 else np.moveaxis(q, -1, 0)
        numbers = {name: np.float64(value) for name, value in self.parameters.items()}
        return dict(zip(self.coordinates, columns, strict=True)) | numbers


def evaluate_expression(text: str, q: np.ndarray, *, wall_height: float | None = None) -> np.ndarray:
    """V at positions q (any shape) for an expression in q.

    Parameters
    ----------
    wall_height
        Multiply V by the positive number that makes V(0) = V(1) equal to this (`wall_factor`); None leaves V as it is.

    Raises
    ------
    InputError
        With the character (counted from 1) where the text stops making sense; where V is not finite on q;
        or with `wall_height` for walls that differ or are not above zero.
    """
    _check_length(text)
    q = np.asarray(q, dtype=np.float64)
    if wall_height is None:
        return _evaluate(text, {"q": q})
    left, right = _evaluate(text, {"q": np.array([0.0, 1.0])}).tolist()
    return _evaluate(text, {"q": q}, wall_factor(left, right, wall_height))


def wall_factor(left: float, right: float, wall_height: float) -> float:
    """The factor that makes walls of heights V(0) = `left` and V(1) = `right` as high as `wall_height`.

    A factor, not a shift: a shift of V changes no motion, and would leave the well as shallow or deep as before.
    Raises InputError unless the walls agree to 1e-9 of their height and are above zero.
    """
    if abs(left - right) > _WALL_AGREEMENT * max(abs(left), abs(right)):
        raise InputError(
            f"walls are V(0) = {left:.9g} and V(1) = {right:.9g}; to be rescaled to {wall_height:g} both must be of one height"
        )
    factor = wall_height / left if left > 0.0 else np.inf
    if not np.isfinite(factor):
        raise InputError(
            f"walls are V(0) = V(1) = {left + 0.0:.9g}; to be rescaled to {wall_height:g} they must be above zero (add a constant to V)"
        )
    return factor


def _check_length(text: str) -> None:
    if len(text) > _MAX_LENGTH:
        raise InputError(f"expression has {len(text)} characters; at most {_MAX_LENGTH} are allowed")


def _evaluate(text: str, variables: Mapping[str, Any], factor: float = 1.0) -> np.ndarray:
    shape = next(iter(variables.values())).shape
    with np.errstate(all="ignore"):
        result = _Reader(text, variables).read() * factor
    values = np.broadcast_to(np.asarray(result, dtype=np.float64), shape).copy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        place = ", ".join(f"{name} = {q.ravel()[bad[0]]:.6g}" for name, q in variables.items() if isinstance(q, np.ndarray))
        raise InputError(f"expression {text!r} is not finite at {place}")
    return values


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, sign or end
    text: str
    start: int


class _Reader:
    """One pass over the text, one token ahead."""

    def __init__(self, text: str, variables: Mapping[str, Any]) -> None:
        self._text = text
        self._variables = variables
        self._depth = 0
        self._token = self._scan(0)

    def read(self) -> Any:
        value = self._sum()
        if self._token.kind != "end":
            self._refuse("an operator or the end is expected")
        return value

    def _scan(self, position: int) -> _Token:
        found = _TOKEN.match(self._text, position)
        if found:
            kind = str(found.lastgroup)
            return _Token(kind, found.group(kind), found.start(kind))
        rest = self._text[position:]
        start = position + len(rest) - len(rest.lstrip(" \t\r\n"))
        if start == len(self._text):
            return _Token("end", "", start)
        self._refuse(f"{self._text[start]!r} is not allowed", start)

    def _next(self) -> _Token:
        token = self._token
        self._token = self._scan(token.start + len(token.text))
        return token

    def _take(self, *signs: str) -> str | None:
        """The token if it is one of `signs`, and past it."""
        return self._next().text if self._token.kind == "sign" and self._token.text in signs else None

    def _refuse(self, reason: str, position: int | None = None) -> NoReturn:
        place = self._token.start if position is None else position
        raise InputError(f"expression {self._text!r} cannot be read at character {place + 1}: {reason}; {self._allowed()}")

    def _allowed(self) -> str:
        names = ", ".join([*self._variables, *_CONSTANTS])
        return f"allowed are numbers, {names}, + - * / ** ^, brackets and {', '.join(_FUNCTIONS)}"

    def _sum(self) -> Any:
        value = self._term()
        while sign := self._take("+", "-"):
            other = self._term()
            value = value + other if sign == "+" else value - other
        return value

    def _term(self) -> Any:
        value = self._signed()
        while sign := self._take("*", "/"):
            other = self._signed()
            value = value * other if sign == "*" else np.divide(value, other)
        return value

    def _signed(self) -> Any:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Any:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._refuse(f"more than {_MAX_DEPTH} nested brackets, functions and powers")
        value = self._atom()
        if self._take("**", "^"):
            value = np.power(value, self._signed())
        self._depth -= 1
        return value

    def _atom(self) -> Any:
        if self._take("("):
            return self._bracketed()
        if self._token.kind == "number":
            return np.float64(self._next().text)
        if self._token.kind != "name":
            self._refuse("a number, a name or a bracket is expected" + ("" if self._token.kind == "end" else f", not {self._token.text!r}"))
        if self._token.text not in {*self._variables, *_CONSTANTS, *_FUNCTIONS}:
            self._refuse(f"{self._token.text!r} is not a name known here")
        name = self._next().text
        if name in self._variables:
            return self._variables[name]
        if name in _CONSTANTS:
            return np.float64(_CONSTANTS[name])
        if not self._take("("):
            self._refuse(f"{name} takes one argument in brackets")
        return _FUNCTIONS[name](self._bracketed())

    def _bracketed(self) -> Any:
        value = self._sum()
        if not self._take(")"):
            self._refuse("a closing bracket is expected")
        return value
