"""Potentials as text: equal to Python where allowed, refused everywhere else."""

import re
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
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
        (".5+5.", np.full(7, 5.5)),
        ("--q", Q),
        ("2*-q", -2 * Q),
        ("-2**-2**2", np.full(7, -(2.0**-4))),
        ("exp ( 0 )\n+\t1", np.full(7, 2.0)),
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
    "1_000", "0x10", "1.2.3", "2q", "q q", "(q)(q)", "q(1)", "pi(1)", "2 3", "q**", "**q", "q***2", "()", ")", "(", "sin(q", "sin q",
    "import", "for", "\uff11", "\u0661", "q\u00b2", "q;", "q,", "q\\\n+1", "#", "@q", "$", "q!", "lambda", "__class__", "q.5", "1..5",
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


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("-" * 499 + "q", True),
        ("1+" * 249 + "q", True),
        ("(" * 49 + "q" + ")" * 49, True),
        ("(" * 50 + "q" + ")" * 50, False),
        ("abs(" * 99 + "q" + ")" * 99, False),
        ("q**" * 45 + "q", True),
        ("q**" * 160 + "q", False),
        ("-(" * 200 + "q", False),
    ],
)
def test_deep_nesting(text, allowed):
    if allowed:
        assert evaluate_expression(text, Q).shape == Q.shape
    else:
        with pytest.raises(InputError, match="more than 50 nested"):
            evaluate_expression(text, Q)


@pytest.mark.parametrize(
    "text", ["9**9**9**9", "9^" * 40 + "9", "exp(exp(exp(exp(9))))", "(" * 499, "9" * 500, "1e" + "9" * 400, " " * 500, "q**-" * 120]
)
def test_nothing_is_slow(text):
    started = time.perf_counter()
    with suppress(InputError):
        evaluate_expression(text, np.linspace(0, 1, 10_000))
    assert time.perf_counter() - started < 0.5


# Texts made of what a parser might trip over, besides any text at all.
pieces = st.sampled_from(
    [
        *"+-*/^()., \n\t=<>[]{}:;'\"#@!_\\%&|~",
        "**",
        "q",
        "pi",
        "e",
        "1",
        "2.5",
        "1e9",
        "lambda",
        "if",
        "import",
        *FUNCTIONS,
        "x",
        "\u00b2",
        "\x00",
    ]
)


@settings(max_examples=400)
@given(st.one_of(st.text(max_size=60), st.lists(pieces, max_size=40).map("".join)))
def test_any_text_is_answered_or_refused_at_a_character(text):
    try:
        values = evaluate_expression(text, Q)
    except InputError as refusal:
        message = str(refusal)
        place = re.search(r"cannot be read at character (\d+): ", message)
        assert place or "is not finite at q = " in message or "at most 500" in message
        assert place is None or 1 <= int(place.group(1)) <= len(text) + 1
        return
    assert values.shape == Q.shape
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize(
    ("text", "character", "reason"),
    [
        ("q + x", 5, "'x' is not a name"),
        ("  q + x", 7, "'x' is not a name"),
        ("q^2 + x", 7, "'x' is not a name"),
        ("q +", 4, "a number, a name or a bracket is expected;"),
        ("", 1, "a number, a name or a bracket is expected"),
        ("(q", 3, "a closing bracket is expected"),
        ("q)", 2, "an operator or the end is expected"),
        ("2q", 2, "an operator or the end is expected"),
        ("sin", 4, "sin takes one argument in brackets"),
        ("1 + sin + 2", 9, "sin takes one argument in brackets"),
        ("sin()", 5, r"a number, a name or a bracket is expected, not '\)'"),
        ("sin(q, q)", 6, "',' is not allowed"),
        ("sin(x=q)", 5, "'x' is not a name"),
        ("sin(q=1)", 6, "'=' is not allowed"),
        ("q.real", 2, "'.' is not allowed"),
        ("q[0]", 2, r"'\[' is not allowed"),
        ("lambda: q", 1, "'lambda' is not a name"),
        ("[q for q in q]", 1, r"'\[' is not allowed"),
        ("q // 2", 4, "a number, a name or a bracket is expected, not '/'"),
        ("'a'", 1, '"\'" is not allowed'),
        ("q < 1", 3, "'<' is not allowed"),
        ("(" * 51 + "q", 51, "more than 50 nested"),
    ],
)
def test_the_message_points_at_the_trouble(text, character, reason):
    with pytest.raises(InputError, match=f"at character {character}: {reason}"):
        evaluate_expression(text, Q)


class TestWalls:
    def test_are_rescaled_by_a_factor(self):
        np.testing.assert_allclose(evaluate_expression("(q-0.5)**2", Q, wall_height=2.0), 8 * (Q - 0.5) ** 2, atol=1e-15)
        np.testing.assert_allclose(evaluate_expression("3 - 4*q*(1-q)", Q, wall_height=2.0), 2 - 8 / 3 * Q * (1 - Q), atol=1e-15)

    def test_are_left_alone_unless_asked(self):
        np.testing.assert_array_equal(evaluate_expression("(q-0.5)**2", Q), (Q - 0.5) ** 2)

    def test_need_not_be_among_the_positions(self):
        assert evaluate_expression("(q-0.5)**2", np.array([0.25]), wall_height=2.0)[0] == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("q", r"V\(0\) = 0 and V\(1\) = 1; .* one height"),
            ("q*(q-1)", r"V\(0\) = V\(1\) = 0; .* above zero"),
            ("-1 - q*(1-q)", "above zero"),
            ("1e-320", "above zero"),
            ("1/q + 1/(1-q)", "not finite at q = 0"),
            ("1e-300 + 1e20*q*(1-q)", "not finite at q = "),
        ],
    )
    def test_that_cannot_be_rescaled_are_refused(self, text, message):
        with pytest.raises(InputError, match=message):
            evaluate_expression(text, Q[1:-1], wall_height=2.0)
