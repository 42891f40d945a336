"""Formulas as programs: values and slopes are those of the text, and functions are recorded only where nothing is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from test_physics_expressions import expressions

from neural_hamilton.physics import InputError
from neural_hamilton.physics.potentials.expressions import Expression
from neural_hamilton.physics.potentials.functions import FunctionPotential
from neural_hamilton.physics.potentials.programs import pack_programs, program_rates, run_programs
from neural_hamilton.physics.solvers.flows import certify_flow
from neural_hamilton.physics.systems.functions import FunctionHamiltonians

LINE = ((0.0, 1.0),)
PLACES = np.linspace(0.05, 0.95, 37)


def slopes(program, q):
    """By the equations of motion, whose rate of p is -V'."""
    out = np.empty(2)
    found = []
    for place in q:
        program_rates(program, np.array([place, 0.0]), out)
        found.append(-out[1])
    return np.array(found)


@settings(max_examples=300, deadline=None)
@given(text=expressions)
def test_a_program_has_the_values_and_slopes_of_its_text(text):
    try:
        values = Expression(text).value(PLACES)
    except InputError:
        return
    program = Expression(text).program
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(run_programs(program[None], PLACES[None, :, None])[0], values, rtol=1e-12, atol=1e-300)
        expected = Expression(text).gradient(PLACES)
        ordinary = np.isfinite(expected) & (np.abs(expected) < 1e12) & (np.abs(values) < 1e12)
        np.testing.assert_allclose(slopes(program, PLACES)[ordinary], expected[ordinary], rtol=1e-7, atol=1e-9 * (1 + np.abs(values).max()))


@pytest.mark.parametrize("text", ["q", "3", "-q**3", "q**0*q**1", "abs(q-0.5)", "2^q", "q^q", "exp(-((q-0.5)/0.08)**2)", "tan(q)/sinh(q)"])
def test_slopes(text):
    np.testing.assert_allclose(slopes(Expression(text).program, PLACES), Expression(text).gradient(PLACES), rtol=1e-12, atol=1e-300)


def test_parameters_are_part_of_a_program_and_rows_may_differ_in_length():
    texts = [Expression("a*q**2", parameters={"a": 3.0}), Expression("sin(q)*exp(q)+1")]
    packed = pack_programs([text.program for text in texts])
    values = run_programs(packed, np.stack([PLACES, PLACES])[..., None])
    np.testing.assert_allclose(values, [text.value(PLACES) for text in texts], rtol=1e-15)


def test_two_coordinates():
    text = Expression("q1**2*q2 + sin(q2)/q1", 2)
    places = np.random.default_rng(0).uniform(0.5, 1.5, (20, 2))
    out = np.empty(4)
    for place, value, slope in zip(places, text.value(places), text.gradient(places), strict=True):
        program_rates(text.program, np.concatenate([place, [0.3, -0.4]]), out)
        np.testing.assert_allclose(out, [0.3, -0.4, *-slope], rtol=1e-13)
        np.testing.assert_allclose(run_programs(text.program[None], place[None, None])[0, 0], value, rtol=1e-14)


def test_a_text_that_cannot_be_read_is_refused_as_ever():
    with pytest.raises(InputError, match=r"expression 'q\+' cannot be read at character 3"):
        _ = Expression("q+").program
    with pytest.raises(InputError, match="expression '1/q' is not finite at q = 0"):
        FunctionHamiltonians([Expression("1/q")], LINE).sense((11,))


@pytest.mark.parametrize(
    ("function", "is_recorded"),
    [
        (lambda q: 8 * (q - 0.5) ** 2, True),
        (lambda q: np.exp(-q) + 2, True),
        (lambda q: np.where(q < 0.5, 1.0, 2.0), False),
        (lambda q: np.interp(q, [0, 1], [2, 0]), False),
        (lambda q: q * len(q.shape), False),
        (lambda q: 1.0 if not isinstance(q, np.ndarray) else q * q, False),  # what it does to arrays counts
        (lambda q: q @ q, False),
    ],
)
def test_a_function_is_compiled_where_its_values_stay_the_same(function, is_recorded):
    hamiltonians = FunctionHamiltonians([FunctionPotential(function, (0.002,))], LINE)
    try:
        assert (hamiltonians.flow is not None) == is_recorded
    except InputError as error:
        assert "does not take arrays" in str(error)


def test_short_steps_meet_a_wall_that_long_ones_pass_over():
    hamiltonians = FunctionHamiltonians([Expression("8*(q-0.5)**2 + 5*exp(-((q-0.3)/0.0008)**2)")], LINE)
    orbit = (hamiltonians.flow, hamiltonians.packed, np.zeros((1, 2)), np.linspace(0, 2, 50)[None], 1e-8)
    assert certify_flow(*orbit, longest_step=1e-3).states[..., 0].max() < 0.3
    free = certify_flow(*orbit).states[..., 0]
    assert free.max() > 0.9  # the steps that step control alone chooses
