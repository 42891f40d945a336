"""Formulas as programs: rows of numbers that compiled code runs, with exact derivatives.

`record` calls a formula once with stand-ins for its coordinates, and keeps each operation that reaches them. A program is a row of
float64: the number of coordinates d, the number n of operations, and for each operation its code, the registers of its two
operands, and a constant. Registers 0 to d - 1 are the coordinates, and operation k fills register d + k. Derivatives are carried forward
with the values (Griewank and Walther, Evaluating Derivatives, 2008, chapter 3).

Shapes: R programs, T places, d coordinates, n operations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..compiled import compiled

_CONSTANT, _ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _POWER, _NEGATIVE = range(7)
_SIN, _COS, _TAN, _SINH, _COSH, _TANH, _EXP, _LOG, _SQRT, _ABS = range(7, 17)
_CODES: dict[Any, int] = {
    np.add: _ADD, np.subtract: _SUBTRACT, np.multiply: _MULTIPLY, np.divide: _DIVIDE, np.power: _POWER, np.negative: _NEGATIVE,
    np.sin: _SIN, np.cos: _COS, np.tan: _TAN, np.sinh: _SINH, np.cosh: _COSH, np.tanh: _TANH,
    np.exp: _EXP, np.log: _LOG, np.sqrt: _SQRT, np.absolute: _ABS,
}  # fmt: skip
_HEADER, _WIDTH = 2, 4  # numbers before the operations, and of each operation
_BLOCK = 256  # places at once


class _Recorder(NDArrayOperatorsMixin):
    """A stand-in for a number in a formula: register `place` of the program that is being written."""

    def __init__(self, operations: list[tuple[float, float, float, float]], num_coordinates: int, place: int) -> None:
        self._operations, self._num_coordinates, self._place = operations, num_coordinates, place

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **options: Any) -> Any:
        if method != "__call__" or options or ufunc not in _CODES:
            return NotImplemented
        places = [self._register(operand) for operand in operands]
        return self._append(_CODES[ufunc], places[0], places[-1], 0.0)

    def _register(self, operand: Any) -> int:
        return operand._place if isinstance(operand, _Recorder) else self._append(_CONSTANT, 0, 0, float(operand))._place

    def _append(self, code: int, first: int, second: int, constant: float) -> "_Recorder":
        self._operations.append((code, first, second, constant))
        return _Recorder(self._operations, self._num_coordinates, self._num_coordinates + len(self._operations) - 1)


def record(formula: Callable[..., Any], num_coordinates: int) -> np.ndarray:
    """The program (2 + 4 n,) of a formula of `num_coordinates` numbers, made of arithmetic and the functions of `expressions`."""
    operations: list[tuple[float, float, float, float]] = []
    start = _Recorder(operations, num_coordinates, 0)
    result = formula(*(_Recorder(operations, num_coordinates, axis) for axis in range(num_coordinates)))
    if not isinstance(result, _Recorder) or result._place < num_coordinates:  # a number, or a coordinate itself
        result = start._append(_ADD, start._register(result), start._register(0.0), 0.0)
    return np.array([num_coordinates, len(operations), *np.ravel(operations)], dtype=np.float64)


def pack_programs(programs: Sequence[np.ndarray]) -> np.ndarray:
    """Programs as rows of one array (R, m), padded with zeros."""
    packed = np.zeros((len(programs), max((program.size for program in programs), default=0)))
    for row, program in zip(packed, programs, strict=True):
        row[: program.size] = program
    return packed


def run_programs(packed: np.ndarray, places: np.ndarray) -> np.ndarray:
    """V (R, T) of R programs at places (R, T, d); inf or nan where a formula has no finite value."""
    values = np.empty(places.shape[:2])
    _run_each(packed, np.ascontiguousarray(places, dtype=np.float64), values)
    return values


@compiled(nogil=True)
def _run_each(packed, places, values):
    """Fill values (R, T): each operation on a block of places at once, which is ten times faster than place by place."""
    num_rows, num_places, d = places.shape
    for row in range(num_rows):
        n = int(packed[row, 1])
        registers = np.empty((d + n, _BLOCK))
        for start in range(0, num_places, _BLOCK):
            count = min(_BLOCK, num_places - start)
            for axis in range(d):
                registers[axis, :count] = places[row, start : start + count, axis]
            for i in range(n):
                _run_operation(packed[row, _HEADER + _WIDTH * i :], registers, d + i, count)
            values[row, start : start + count] = registers[d + n - 1, :count]


@compiled()
def _run_operation(operation, registers, result, count):
    """Fill the first `count` numbers of the register `result`."""
    code = int(operation[0])
    a, b, out = registers[int(operation[1])], registers[int(operation[2])], registers[result]
    if code == _CONSTANT:
        out[:count] = operation[3]
    elif code == _ADD:
        for k in range(count):
            out[k] = a[k] + b[k]
    elif code == _SUBTRACT:
        for k in range(count):
            out[k] = a[k] - b[k]
    elif code == _MULTIPLY:
        for k in range(count):
            out[k] = a[k] * b[k]
    elif code == _DIVIDE:
        for k in range(count):
            out[k] = a[k] / b[k]
    elif code == _NEGATIVE:
        for k in range(count):
            out[k] = -a[k]
    elif code == _ABS:
        for k in range(count):
            out[k] = abs(a[k])
    elif code == _POWER:
        for k in range(count):
            out[k] = _power(a[k], b[k])[0]
    else:
        for k in range(count):
            out[k] = _apply(code, a[k])[0]


@compiled()
def program_rates(packed, y, out):
    """Fill `out` (2 d,) with the rates of y = (q, p) for H = p²/2 + V(q), V a program."""
    d = int(packed[0])
    registers = np.empty((d + int(packed[1]), 1 + d))
    _run_at(packed, y, registers)
    last = registers.shape[0] - 1
    for axis in range(d):
        out[axis] = y[d + axis]
        out[d + axis] = -registers[last, 1 + axis]


@compiled()
def _run_at(packed, place, registers):
    """Fill `registers` (d + n, 1 + d) with every value and its derivatives."""
    d, n = int(packed[0]), int(packed[1])
    for axis in range(d):
        registers[axis, 0] = place[axis]
        for k in range(d):
            registers[axis, 1 + k] = 1.0 if k == axis else 0.0
    for i in range(n):
        start = _HEADER + _WIDTH * i
        code, first, second = int(packed[start]), int(packed[start + 1]), int(packed[start + 2])
        a, b = registers[first, 0], registers[second, 0]
        by_a, by_b = 0.0, 0.0  # of the result, by its operands
        if code == _CONSTANT:
            value = packed[start + 3]
        elif code == _ADD:
            value, by_a, by_b = a + b, 1.0, 1.0
        elif code == _SUBTRACT:
            value, by_a, by_b = a - b, 1.0, -1.0
        elif code == _MULTIPLY:
            value, by_a, by_b = a * b, b, a
        elif code == _DIVIDE:
            value, by_a = a / b, 1.0 / b
            by_b = -value / b
        elif code == _POWER:
            value, by_a, by_b = _power(a, b)
        elif code == _NEGATIVE:
            value, by_a = -a, -1.0
        elif code == _ABS:
            value, by_a = abs(a), -1.0 if a < 0.0 else 1.0
        else:
            value, by_a = _apply(code, a)
        registers[d + i, 0] = value
        for k in range(d):
            along_a, along_b = registers[first, 1 + k], registers[second, 1 + k]
            # An operand that does not vary takes no part, whatever its factor: 0 inf is nan.
            slope = by_a * along_a if code != _CONSTANT and along_a != 0.0 else 0.0
            if _ADD <= code <= _POWER and along_b != 0.0:
                slope += by_b * along_b
            registers[d + i, 1 + k] = slope


@compiled()
def _power(a, b):
    """a**b and its derivatives by a and by b."""
    if b == 2.0:
        value, by_a = a * a, 2.0 * a
    else:
        value = math.pow(a, b)
        by_a = 0.0 if b == 0.0 else (1.0 if b == 1.0 else b * math.pow(a, b - 1.0))
    return value, by_a, value * math.log(a) if a > 0.0 else math.nan


@compiled()
def _apply(code, a):
    """A function of one number, and its derivative."""
    if code == _SIN:
        return math.sin(a), math.cos(a)
    if code == _COS:
        return math.cos(a), -math.sin(a)
    if code == _TAN:
        value = math.tan(a)
        return value, 1.0 + value * value
    if code == _SINH:
        return math.sinh(a), math.cosh(a)
    if code == _COSH:
        return math.cosh(a), math.sinh(a)
    if code == _TANH:
        value = math.tanh(a)
        return value, 1.0 - value * value
    if code == _EXP:
        value = math.exp(a)
        return value, value
    if code == _LOG:
        return (math.log(a) if a >= 0.0 else math.nan), 1.0 / a
    value = math.sqrt(a) if a >= 0.0 else math.nan
    return value, 0.5 / value
