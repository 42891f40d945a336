"""Potentials written as text, such as "8*(q-0.5)**2": arithmetic and the usual functions of q, nothing else.

The text is never executed, nor handed to Python's parser. It is read from left to right by a grammar of

    sum     = term (("+" | "-") term)*
    term    = signed (("*" | "/") signed)*
    signed  = ("+" | "-")* power
    power   = atom [("**" | "^") signed]
    atom    = number | "q" | "pi" | "e" | function "(" sum ")" | "(" sum ")"

which is Python's precedence, and evaluated as it is read, so every fault is found at a known character and the
work is bounded by the length of the text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..errors import InputError

_MAX_LENGTH = 500
_MAX_DEPTH = 50
_WALL_AGREEMENT = 1e-9  # relative; two walls that differ by more are two heights
_TOKEN = re.compile(
    r"[ \t\r\n]*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>\*\*|[-+*/^()]))"
)
_CONSTANTS = {"pi": np.pi, "e": np.e}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs,
}  # fmt: skip
_ALLOWED = f"allowed are numbers, q, {', '.join(_CONSTANTS)}, + - * / ** ^, brackets and {', '.join(_FUNCTIONS)}"


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
    if len(text) > _MAX_LENGTH:
        raise InputError(f"expression has {len(text)} characters; at most {_MAX_LENGTH} are allowed")
    q = np.asarray(q, dtype=np.float64)
    if wall_height is None:
        return _evaluate(text, q)
    left, right = _evaluate(text, np.array([0.0, 1.0])).tolist()
    return _evaluate(text, q, wall_factor(left, right, wall_height))


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


def _evaluate(text: str, q: np.ndarray, factor: float = 1.0) -> np.ndarray:
    with np.errstate(all="ignore"):
        result = _Reader(text, q).read() * factor
    values = np.broadcast_to(np.asarray(result, dtype=np.float64), q.shape).copy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InputError(f"expression {text!r} is not finite at q = {q.ravel()[bad[0]]:.6g}")
    return values


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, sign or end
    text: str
    start: int


class _Reader:
    """One pass over the text, one token ahead."""

    def __init__(self, text: str, q: np.ndarray) -> None:
        self._text = text
        self._q = q
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
        raise InputError(f"expression {self._text!r} cannot be read at character {place + 1}: {reason}; {_ALLOWED}")

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
        if self._token.text not in {"q", *_CONSTANTS, *_FUNCTIONS}:
            self._refuse(f"{self._token.text!r} is not a name known here")
        name = self._next().text
        if name == "q":
            return self._q
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
