"""Potentials written as text, such as "8*(q-0.5)**2": arithmetic and the usual functions of q, nothing else."""

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import InputError

_MAX_LENGTH = 500
_CONSTANTS = {"pi": np.pi, "e": np.e}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs,
}  # fmt: skip
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: np.divide, ast.Pow: np.power,
}  # fmt: skip
_UNARY: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate_expression(text: str, q: np.ndarray) -> np.ndarray:
    """V at positions q (any shape) for an expression in q.

    The text is parsed, never executed: each node of its syntax tree must be on a short list.

    Raises
    ------
    InputError
        With the position of the first thing not understood, or when V is not finite somewhere on q.
    """
    if len(text) > _MAX_LENGTH:
        raise InputError(f"expression has {len(text)} characters; at most {_MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        position = getattr(error, "offset", None) or 1
        raise InputError(f"expression {text!r} cannot be read at character {position}") from None
    q = np.asarray(q, dtype=np.float64)
    try:
        with np.errstate(all="ignore"):
            result = _evaluate(tree.body, q, text)
    except RecursionError:
        raise InputError(f"expression {text!r} is nested too deeply") from None
    values = np.broadcast_to(np.asarray(result, dtype=np.float64), q.shape).copy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InputError(f"expression {text!r} is not finite at q = {q.ravel()[bad[0]]:.6g}")
    return values


def _evaluate(node: ast.AST, q: np.ndarray, text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        try:
            return np.float64(node.value)
        except OverflowError:
            return np.float64(np.inf)
    if isinstance(node, ast.Name) and node.id == "q":
        return q
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return np.float64(_CONSTANTS[node.id])
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_evaluate(node.left, q, text), _evaluate(node.right, q, text))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_evaluate(node.operand, q, text))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and len(node.args) == 1
        and not node.keywords
    ):
        return _FUNCTIONS[node.func.id](_evaluate(node.args[0], q, text))
    raise InputError(
        f"expression {text!r} is not understood at character {getattr(node, 'col_offset', 0) + 1}; "
        f"allowed are numbers, q, {', '.join(_CONSTANTS)}, + - * / **, brackets and {', '.join(_FUNCTIONS)}"
    )
