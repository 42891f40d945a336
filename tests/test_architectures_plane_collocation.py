"""Gauss collocation in splines of V and M⁻¹: beside the compiled solver on the same splines, and what a symplectic map must have."""

import math

import numpy as np
import pytest
import torch

from neural_hamilton.architectures import Task, build_operator, parse_architecture
from neural_hamilton.architectures.layers.gaussian_fields import covariance, draw_fields
from neural_hamilton.architectures.layers.plane_collocation import (
    PlaneFields,
    cardinal_coefficients,
    cardinal_pieces,
    get_collocation,
    plane_motion,
)
from neural_hamilton.physics.diagnostics import symplecticity_defect
from neural_hamilton.physics.systems import get_system
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.evaluation.metrics import measure
from neural_hamilton.platform.evaluation.problems import draw_problems

PENDULUM = get_system("double-pendulum")
GRID = 25


@pytest.fixture(scope="module")
def problems():
    ensemble = PENDULUM.ensembles["random"]()
    return draw_problems(PENDULUM, ensemble, ensemble, 0, 16, (GRID, GRID))


def plane_fields(problems):
    fields = np.concatenate([problems.fields["potential"][:, None], problems.fields["inverse_mass"]], axis=1)
    matrix = torch.from_numpy(cardinal_coefficients(GRID))
    return PlaneFields(matrix @ torch.from_numpy(fields) @ matrix.T, torch.from_numpy(cardinal_pieces()), PENDULUM.domain)


def states_of(problems):
    return torch.from_numpy(np.concatenate([problems.q0, problems.p0], axis=1))


def test_rates_are_those_of_the_not_a_knot_splines(problems):
    splines = PENDULUM.splines(problems.fields, 5)
    states = np.random.default_rng(0).uniform(-1.0, 1.0, size=(16, 50, 4)) * [math.pi, math.pi, 3.0, 3.0]
    by_q, by_p = splines.gradient(states[..., :2], states[..., 2:])
    rates = plane_fields(problems).rates(torch.from_numpy(states)).numpy()
    np.testing.assert_allclose(rates, np.concatenate([by_p, -by_q], axis=-1), atol=1e-9)


def test_beyond_the_domain_springs_pull_back(problems):
    fields = plane_fields(problems.take(np.arange(1)))
    outside = torch.tensor([[[math.pi + 0.1, 0.5, 0.0, 0.0], [math.pi, 0.5, 0.0, 0.0]]], dtype=torch.float64)
    [[beyond, edge]] = fields.rates(outside)
    assert float(beyond[2]) == pytest.approx(-100.0, abs=1e-6) and float(beyond[3]) == pytest.approx(float(edge[3]))


def test_motion_is_that_of_an_adaptive_solver_on_the_same_splines(problems):
    q, p = PENDULUM.solve(PENDULUM.splines(problems.fields, 5), problems.q0, problems.p0, problems.times)
    times = torch.from_numpy(problems.times)
    states = plane_motion(plane_fields(problems), states_of(problems), times, 0.05, 200, get_collocation()).numpy()
    np.testing.assert_allclose(states, np.concatenate([q, p], axis=-1), atol=1e-5)
    np.testing.assert_array_equal(states[:, 0], states_of(problems).numpy())


def test_the_step_is_symplectic_and_of_order_twelve(problems):
    some = problems.take(np.arange(2))
    fields, initial = plane_fields(some), states_of(some)

    def end(start, num_steps):
        times = torch.full((2, 1), 0.8, dtype=torch.float64)
        return plane_motion(fields, start, times, 0.8 / num_steps, num_steps, get_collocation())[:, 0]

    jacobian = torch.stack([j[i] for i, j in enumerate(torch.autograd.functional.jacobian(lambda y: end(y, 16), initial).movedim(2, 1))])
    assert symplecticity_defect(jacobian[:, None].numpy()).max() < 1e-8
    assert float((end(initial, 16) - end(initial, 32)).abs().max()) < 1e-9


def test_gradients_are_those_of_differences(problems):
    some = problems.take(np.arange(1))
    fields, times = plane_fields(some), torch.tensor([[0.03, 0.31]], dtype=torch.float64)

    def states(coefficients, initial, at):
        return plane_motion(fields._replace(coefficients=coefficients), initial, at, 0.1, 4, get_collocation())

    arguments = tuple(x.clone().requires_grad_(True) for x in (fields.coefficients, states_of(some), times))
    assert torch.autograd.gradcheck(states, arguments, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_untrained_it_is_near_a_spline_and_no_query_sees_another():
    ensemble = PENDULUM.ensembles["random"]()
    problems = draw_problems(PENDULUM, ensemble, ensemble, 0, 64, (24, 24))
    fields = np.concatenate([problems.fields["potential"][:, None], problems.fields["inverse_mass"]], axis=1)
    config = load_config("fieldnet-double-pendulum").architecture
    torch.manual_seed(0)
    model = build_operator(config, Task((24, 24), PENDULUM.domain, PENDULUM.horizon, 4)).eval()
    model.set_normalisation(fields.mean(axis=(0, 2, 3)).tolist(), fields.std(axis=(0, 2, 3)).tolist())
    inputs = [torch.from_numpy(x).float() for x in (fields, problems.times, problems.initial)]
    with torch.no_grad():
        output = model(*inputs)
        some = model(inputs[0], inputs[1][:, 40:45], inputs[2])
    torch.testing.assert_close(some.q, output.q[:, 40:45], rtol=0, atol=1e-6)
    own = measure(problems, output.q.double().numpy(), output.p.double().numpy())["total_loss"]
    [spline] = [b for b in PENDULUM.baselines([0.02]) if b.name == "dop853-biquintic"]
    other = measure(problems, *spline.states(problems)[:2])["total_loss"]
    assert np.median(own) < 2.0 * np.median(other) and own.mean() < 2.0 * other.mean()


def test_a_mass_between_few_sensors_remains_positive():
    ensemble = PENDULUM.ensembles["random"]()
    problems = draw_problems(PENDULUM, ensemble, ensemble, 0, 32, (8, 8))
    fields = np.concatenate([problems.fields["potential"][:, None], problems.fields["inverse_mass"]], axis=1)
    values = load_config("fieldnet-double-pendulum").architecture.model_dump() | {"num_fine": 37}
    torch.manual_seed(0)
    model = build_operator(parse_architecture(values), Task((8, 8), PENDULUM.domain, PENDULUM.horizon, 4)).eval()
    model.set_normalisation(fields.mean(axis=(0, 2, 3)).tolist(), fields.std(axis=(0, 2, 3)).tolist())
    inputs = [torch.from_numpy(x).float() for x in (fields, problems.times, problems.initial)]
    with torch.no_grad():
        _, a, b, d = model.predict_potentials(inputs[0]).squeeze(1).unbind(dim=1)
        output = model(*inputs)
    assert torch.all(a * d - b * b > 0.0) and torch.all(a > 0.0)
    assert torch.isfinite(output.q).all() and output.q.abs().max() < 20.0


def test_unit_mass_moves_as_by_a_splitting_method():
    surface = get_system("surface")
    ensemble = surface.ensembles["random"]()
    problems = draw_problems(surface, ensemble, ensemble, 0, 4, (12, 12))
    inputs = [torch.from_numpy(x) for x in (problems.fields["potential"][:, None], problems.times, problems.initial)]
    ends = []
    for method in ("blanes-moan6", "gauss-legendre12"):
        torch.manual_seed(0)
        config = parse_architecture({"name": "fieldnet", "rim": 2.0, "num_fine": 37, "method": method})
        with torch.no_grad():
            ends.append(build_operator(config, Task((12, 12), surface.domain, surface.horizon)).double().eval()(*inputs).q)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-4)


def test_periodic_fields_have_the_period_and_the_covariance():
    places, scale, count = np.linspace(0.0, 1.0, 7), 0.15, 4_000
    images = np.arange(-6, 7)
    summed = np.exp(-0.5 * np.square((places[:, None, None] - places[:, None] + images) / scale)).sum(axis=-1)
    np.testing.assert_allclose(covariance(places, places, scale, periodic=True), summed / summed[0, 0], atol=1e-8)
    [fields] = draw_fields(np.random.default_rng(0), [(places, places)], [[scale]], True, count)
    np.testing.assert_allclose(fields[..., 0, :], fields[..., -1, :], atol=1e-12)
    products = (fields[:, 0, 2, 2, None] * fields[:, 0, 2]).mean(axis=0)
    np.testing.assert_allclose(products, covariance(places, places, scale, periodic=True)[2], atol=6.0 * math.sqrt(2.0 / count))
