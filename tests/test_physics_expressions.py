"""Potentials as text: equal to Python where allowed, refused everywhere else."""

import ast
import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.physics import InputError, evaluate_expression

Q = np.linspace(0.0, 1.0, 7)
FUNCTIONS = ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "sqrt", "abs")

leaves = st.sampled_from(["q", "pi", "e", "0", "1", "2", "0.5", "1e-3", "3.25", "10", "7e2"])


def compound(children):
    pair = st.tuples(children, st.sampled_from(["+", "-", "*", "/", "**", " + ", " - ", " * "]), children)
    return st.one_of(
        pair.map("".join),
        pair.map(lambda parts: f"({''.join(parts)})"),
        st.tuples(st.sampled_from("+-"), children).map("".join),
        st.tuples(st.sampled_from(FUNCTIONS), children).map(lambda parts: f"{parts[0]}({parts[1]})"),
    )


expressions = st.recursive(leaves, compound, max_leaves=12).filter(lambda text: len(text) <= 500)


class Number:
    """A stand-in that lets Python's own parser and precedence drive NumPy's elementwise operations."""

    def __init__(self, value):
        self.value = np.asarray(value, dtype=np.float64)

    def __add__(self, other):
        return Number(self.value + other.value)

    def __sub__(self, other):
        return Number(self.value - other.value)

    def __mul__(self, other):
        return Number(self.value * other.value)

    def __truediv__(self, other):
        return Number(np.divide(self.value, other.value))

    def __pow__(self, other):
        return Number(np.power(self.value, other.value))

    def __neg__(self):
        return Number(-self.value)

    def __pos__(self):
        return self


def python_says(text):
    names = {name: (lambda x, name=name: Number(getattr(np, name)(x.value))) for name in FUNCTIONS}
    names |= {"q": Number(Q), "pi": Number(np.pi), "e": Number(np.e), "Number": Number, "__builtins__": {}}
    wrapped = re.sub(r"(?<![\w.])\d+(\.\d+)?(e-?\d+)?", r"Number(\g<0>)", text)
    with np.errstate(all="ignore"):
        return np.broadcast_to(eval(wrapped, names).value, Q.shape)


@given(expressions)
def test_equals_python(text):
    expected = python_says(text)
    if np.all(np.isfinite(expected)):
        np.testing.assert_array_equal(evaluate_expression(text, Q), expected)
    else:
        with pytest.raises(InputError, match="not finite at q = "):
            evaluate_expression(text, Q)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8*(q-0.5)**2", 8 * (Q - 0.5) ** 2),
        (" 8 * (q - 0.5)^2 ", 8 * (Q - 0.5) ** 2),
        ("-q**2", -(Q**2)),
        ("2**-q", 2.0**-Q),
        ("2^3^2", np.full(7, 512.0)),
        ("1", np.ones(7)),
        ("1_000", np.full(7, 1000.0)),
    ],
)
def test_by_hand(text, expected):
    np.testing.assert_allclose(evaluate_expression(text, Q), expected, rtol=1e-15)


def test_shape_is_that_of_q_and_the_answer_is_writable():
    answer = evaluate_expression("2", np.zeros((2, 3)))
    assert answer.shape == (2, 3)
    answer[0, 0] = 1.0


REFUSED = [
    "import os", "__import__('os')", "__import__('os').system('true')", "q.real", "q.__class__", "().__class__.__bases__",
    "(lambda: q)()", "lambda: q", "x", "Q", "np", "__builtins__", "foo(q)", "eval(q)",
    "sin", "sin()", "sin(q, q)", "sin(x=q)", "sin(q, out=q)",
    "sin(*q)", "sin(**q)", "sin(q)(q)", "(sin)(q)(1)", "q < 1", "q == q", "q if q else 1", "q and 1", "not q", "~q",
    "q // 2", "q % 2", "q @ q",
    "q | 1", "q & 1", "q << 1", "[q]", "(q, q)", "{q}", "{}", "[q for q in q]", "q[0]", "q := 1", "(q := 1)", "q = 1", "q; q",
    "'a'", '"a" * 3', "f'{q}'", "b'a'", "1j", "q + 2j", "True", "None", "...", "", "   ", "\n", "q\x00", "q +",
    "(q", "q)", "1e", "0x", "await q",
    "yield q", "*q", "print(q)", "open('/etc/passwd')", "9" * 501, "(" * 250 + "q" + ")" * 250, "q" * 100, "\u20ac", "q # \ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text):
    with pytest.raises(InputError, match="expression"):
        evaluate_expression(text, Q)


@pytest.mark.parametrize(
    "text", ["1/q", "log(q)", "sqrt(q-0.5)", "1e999", "9**9**9**9", "exp(1e9*(q+1))", "0/0*q", "9" * 499, "(q-0.5)**0.5"]
)
def test_not_finite_is_refused(text):
    with pytest.raises(InputError, match="not finite at q = "):
        evaluate_expression(text, Q)


@pytest.mark.parametrize("text", ["-" * 499 + "q", "1+" * 249 + "q", "abs(" * 99 + "q" + ")" * 99, "(" * 150 + "q" + ")" * 150])
def test_deep_nesting_is_answered_or_refused(text):
    with suppress(InputError):
        assert evaluate_expression(text, Q).shape == Q.shape


@given(st.text(max_size=60))
def test_any_text_is_answered_or_refused(text):
    try:
        values = evaluate_expression(text, Q)
    except InputError:
        return
    assert values.shape == Q.shape
    assert np.all(np.isfinite(values))
    ast.parse(text.strip().replace("^", "**"), mode="eval")


def test_the_message_points_at_the_trouble():
    with pytest.raises(InputError, match="character 5"):
        evaluate_expression("q + x", Q)
