"""FieldNet beside the contract: what it predicts before training, its interpolants and gradients, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from neural_hamilton.architectures import Task, build_operator, parse_architecture
from neural_hamilton.architectures.layers.field_interpolation import FieldInterpolation
from neural_hamilton.architectures.layers.noisy_readings import NoisyReadings
from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import get_system
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.evaluation.metrics import measure
from neural_hamilton.platform.evaluation.problems import case_problem, draw_problems

SURFACE = get_system("surface")


def network(sensors=12, **others):
    torch.manual_seed(0)
    task = Task((sensors, sensors), SURFACE.domain, SURFACE.horizon)
    return build_operator(parse_architecture({"name": "fieldnet", "rim": 2.0} | others), task).eval()


def problems_with(sensors, rows=64):
    ensemble = SURFACE.ensembles["random"]()
    return draw_problems(SURFACE, ensemble, ensemble, 0, rows, (sensors, sensors)).at_sensors((sensors, sensors))


def inputs(problems, dtype=torch.float32):
    return tuple(torch.tensor(x, dtype=dtype) for x in (problems.fields["potential"][:, None], problems.times, problems.initial))


def median_loss(problems, q, p):
    return float(np.median(measure(problems, np.asarray(q, dtype=np.float64), np.asarray(p, dtype=np.float64))["total_loss"]))


@pytest.mark.parametrize("sensors", [8, 12, 24])
def test_before_training_it_is_near_the_prior_fit_and_far_better_than_splines(sensors):
    problems = problems_with(sensors, rows=128)
    with torch.no_grad():
        output = network(sensors)(*inputs(problems))
    own = median_loss(problems, output.q, output.p)
    baselines = {b.name: b for b in SURFACE.baselines([0.02]) if b.name in ("dop853-prior-fit", "dop853-biquintic")}
    fit, spline = (median_loss(problems, *baselines[name].states(problems)[:2]) for name in ("dop853-prior-fit", "dop853-biquintic"))
    assert own < spline / 10 and own < max(2 * fit, 1e-11), (own, fit, spline)


def test_with_noise_of_known_size_it_is_nearer_than_the_prior_fit():
    ensemble = SURFACE.ensembles["random"]()
    problems = draw_problems(SURFACE, ensemble, ensemble, 0, 128, (12, 12)).at_sensors((12, 12), 0.01, 0)
    [fit] = [b for b in SURFACE.baselines([0.02]) if b.name == "dop853-prior-fit"]
    by_fit = measure(problems, *fit.states(problems)[:2])["total_loss"].mean()
    common = {"num_fine": 37, "num_steps": 60, "noise": [1e-5, 1e-4, 1e-3]}
    losses = []
    for own in ({"sensor_noise": None}, {"sensor_noise": 0.01}, {"sensor_noise": 0.01, "num_pairs": 8}):
        with torch.no_grad():
            output = network(**common, **own)(*inputs(problems))
        losses.append(measure(problems, *(np.asarray(x, dtype=np.float64) for x in (output.q, output.p)))["total_loss"].mean())
    assert losses[1] < 0.7 * losses[0] and losses[1] < 1.05 * by_fit and losses[2] < 0.9 * by_fit, (losses, by_fit)


def test_a_reading_that_is_not_finite_concerns_its_row_alone():
    problems = problems_with(12, rows=3)
    fields, times, initial = inputs(problems)
    for values in ({}, {"sensor_noise": 0.01, "noise": [1e-4], "num_pairs": 1}):
        model = network(num_fine=25, num_steps=20, **values)
        with torch.no_grad():
            expected = model(fields, times, initial)
            broken = fields.clone()
            broken[1, 0, 3, 3] = float("nan")
            found = model(broken, times, initial)
        assert torch.isnan(found.q[1]).any()
        torch.testing.assert_close(found.q[[0, 2]], expected.q[[0, 2]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("sensor_noise", [1e-6, 1e-3])
def test_noise_far_above_what_is_allowed_for_has_finite_motion(sensor_noise):
    problems = problems_with(12, rows=16)
    fields, times, initial = inputs(problems)
    noisy = fields + torch.randn(fields.shape, generator=torch.Generator().manual_seed(0))
    model = network(num_fine=25, num_steps=60, sensor_noise=sensor_noise, noise=[1e-5, 1e-3], num_pairs=1).train()
    output = model(noisy, times, initial)
    output.q.square().mean().backward()
    assert output.q.abs().max() < 5.0 and all(torch.isfinite(x.grad).all() for x in model.parameters() if x.grad is not None)


@pytest.mark.parametrize("pairs", [1, 3, 5])
def test_means_of_motions_start_at_the_initial_state_to_the_last_bit(pairs):
    fields, _, initial = inputs(problems_with(12, rows=8), torch.float64)
    output = network(num_fine=25, num_steps=20, num_pairs=pairs).double()(fields, torch.zeros(8, 1, dtype=torch.float64), initial)
    assert torch.equal(torch.cat([output.q, output.p], dim=-1)[:, 0], initial)


def test_training_with_another_rim_than_that_of_the_data_is_refused():
    with pytest.raises(InputError, match=r"rim is 1\.0, but no V of a batch is lower at all sensors inside"):
        network(rim=1.0).train()(*inputs(problems_with(12, rows=4)))


def test_noise_may_lift_readings_above_the_rim():
    problems = problems_with(12, rows=2)
    fields, times, initial = inputs(problems)
    fields[0, 0, 1, 1:3] = 2.05
    model = network(sensor_noise=0.02, noise=[1e-4], num_fine=37, num_steps=60, num_pairs=1).train()
    output = model(fields, times, initial)
    output.q.square().mean().backward()
    assert torch.isfinite(output.q).all() and all(torch.isfinite(x.grad).all() for x in model.parameters() if x.grad is not None)
    potentials = model.predict_potentials(fields)
    assert torch.all(potentials[..., 0] == 2.0) and torch.all(potentials[..., 1:-1, 1:-1] < 2.0)


@pytest.mark.parametrize("name", ["separable", "central"])
def test_a_surface_that_is_level_at_its_rim_is_a_spline_beside_others_that_are_not(name):
    case = next(case for case in SURFACE.named_cases(None) if case.name == name)
    bowl = case_problem(case, SURFACE, SURFACE.ensembles["random"](), (24, 24), np.linspace(0.0, 2.0, 50))
    spline = next(baseline for baseline in SURFACE.baselines([0.02]) if baseline.name == "dop853-bicubic")
    with torch.no_grad():
        output = network(24)(*inputs(bowl))
    assert median_loss(bowl, output.q, output.p) < 2 * median_loss(bowl, *spline.states(bowl)[:2])
    others = problems_with(24, rows=2)
    mixed = torch.cat([inputs(bowl)[0], inputs(others)[0]])
    with torch.no_grad():
        alone, beside = network(24).predict_potentials(inputs(others)[0]), network(24).predict_potentials(mixed)[1:]
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-12)


def test_readings_at_the_rim_have_finite_gradients():
    problems = problems_with(12, rows=2)
    fields, times, initial = inputs(problems)
    fields[0, 0, 1, 1] = 2.1
    model = network(12).train()
    output = model(fields, times, initial)
    output.q.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_an_interpolant_is_the_mean_of_its_gaussian_process_and_its_evidence_is_the_likelihood():
    places, fine, scales = np.linspace(0.1, 0.9, 5), np.linspace(0.0, 1.0, 13), [0.2, 0.4]
    errors = 1.0 + places
    module = FieldInterpolation([places, places], [fine, fine], scales, [1e-6], [errors, errors], 4, 1)
    values = np.random.default_rng(0).normal(size=(5, 5))
    found = module._interpolate(torch.from_numpy(values)[None])
    fields, at_sensors = module._at("fine", found), module._at("own", found)
    grid = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)
    dense = np.stack(np.meshgrid(fine, fine, indexing="ij"), axis=-1).reshape(-1, 2)
    likelihoods = []
    for k, scale in enumerate(scales):

        def kernel(a, b, scale=scale):
            return np.exp(-0.5 * np.square((a[:, None] - b) / scale).sum(axis=-1))

        covariance = kernel(grid, grid) + 1e-6 * np.diag(np.square(np.outer(errors, errors).ravel()))
        ones = np.linalg.solve(covariance, np.ones(25))
        mean = ones @ values.ravel() / ones.sum()
        expected = mean + kernel(dense, grid) @ np.linalg.solve(covariance, values.ravel() - mean)
        np.testing.assert_allclose(fields[0, k].flatten(), expected, atol=1e-7)
        own = mean + kernel(grid, grid) @ np.linalg.solve(covariance, values.ravel() - mean)
        np.testing.assert_allclose(at_sensors[0, k].flatten(), own, atol=1e-7)
        assert float(found.means[0, k]) == pytest.approx(mean, rel=1e-7)
        variance = (values.ravel() - mean) @ np.linalg.solve(covariance, values.ravel() - mean) / 25
        assert float(found.variances[0, k]) == pytest.approx(variance * 25 / 24, rel=1e-7)
        likelihood = multivariate_normal(np.full(25, mean), variance * covariance).logpdf(values.ravel())
        likelihoods.append(likelihood - 0.5 * np.log(ones.sum()))
    assert float(found.evidence[0, 0] - found.evidence[0, 1]) == pytest.approx(likelihoods[0] - likelihoods[1], abs=1e-6)


def test_drawn_fields_have_the_variance_that_the_sensors_leave_open():
    places, fine, pairs = np.linspace(0.1, 0.9, 4), np.linspace(0.0, 1.0, 9), 2_000
    errors = 1.0 + places
    module = FieldInterpolation([places, places], [fine, fine], [0.3], [1e-2], [errors, errors], 4, 1, pairs)
    values = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 4, 4)))
    drawn = module(values)[0].detach().numpy()
    found = module._interpolate(values)
    average, variance = module._at("fine", found)[0, 0].numpy(), float(found.variances[0, 0])
    np.testing.assert_allclose(0.5 * (drawn[:pairs] + drawn[pairs:]), np.broadcast_to(average, (pairs, 9, 9)), atol=1e-12)

    grid, dense = (np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2) for x in (places, fine))

    def kernel(a, b):
        return np.exp(-0.5 * np.square((a[:, None] - b) / 0.3).sum(axis=-1))

    # Kriging with an unknown mean (Rasmussen and Williams, 2.42).
    solved = np.linalg.solve(
        kernel(grid, grid) + 1e-2 * np.diag(np.square(np.outer(errors, errors).ravel())),
        np.column_stack([kernel(grid, dense), np.ones(16)]),
    )
    across, ones = solved[:, :-1], solved[:, -1]
    left = 1.0 - (kernel(dense, grid) * across.T).sum(axis=1) + np.square(1.0 - across.sum(axis=0)) / ones.sum()
    measured = np.square(drawn[:pairs] - average).mean(axis=0).ravel() / variance
    np.testing.assert_allclose(measured, left, rtol=6.0 * np.sqrt(2.0 / pairs))  # six standard deviations of a variance


def test_noisy_readings_are_weighed_by_their_own_errors():
    places, fine, count = np.linspace(0.1, 0.9, 4), np.linspace(0.0, 1.0, 9), 4_000
    scales, amounts = [0.2, 0.5], np.array([[0.7, 0.4], [0.0, 2.0], *([[1.0, 1.0]] * 16)])  # more rows than are solved at once
    rng = np.random.default_rng(2)
    readings, variances = rng.normal(size=(18, 4, 4)), 10.0 ** rng.uniform(-4.0, 0.0, size=(18, 4, 4))
    module = NoisyReadings([places, places], [fine, fine], scales, count)
    inputs = [torch.from_numpy(x).requires_grad_() for x in (readings, variances, amounts)]
    found = module(*inputs)
    gradients = torch.autograd.grad(found[0].sum() + found[1].square().sum(), inputs)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    means, deviations = (x.detach() for x in found)
    grid, dense = (np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2) for x in (places, fine))
    for row in (0, 1, 17):

        def kernel(a, b, row=row):
            squares = np.square(a[:, None] - b).sum(axis=-1)
            return sum(amount * np.exp(-0.5 * squares / scale**2) for amount, scale in zip(amounts[row], scales, strict=True))

        covariance = kernel(grid, grid) + np.diag(variances[row].ravel())
        solved = np.linalg.solve(covariance, np.column_stack([kernel(grid, dense), np.ones(16), readings[row].ravel()]))
        across, ones, own = solved[:, :-2], solved[:, -2], solved[:, -1]
        mean = own.sum() / ones.sum()
        np.testing.assert_allclose(means[row].flatten(), mean + kernel(dense, grid) @ (own - mean * ones), atol=1e-9)
        left = amounts[row].sum() - (kernel(dense, grid) * across.T).sum(axis=1) + np.square(1.0 - across.sum(axis=0)) / ones.sum()
        measured = np.square(deviations[row].numpy()).mean(axis=0).ravel()
        np.testing.assert_allclose(measured, left, rtol=6.0 * np.sqrt(2.0 / count))


@pytest.mark.parametrize("rim", [2.0, None])
def test_the_mean_of_motions_in_drawn_potentials_is_nearer_than_the_motion_in_the_predicted_one(rim):
    problems = problems_with(8, rows=256)
    few = {"rim": rim, "num_fine": 25, "num_steps": 200}
    losses = []
    for pairs in (0, 8):
        with torch.no_grad():
            output = network(8, **few, num_pairs=pairs)(*inputs(problems))
        losses.append(measure(problems, *(np.asarray(x, dtype=np.float64) for x in (output.q, output.p)))["total_loss"].mean())
    assert losses[1] < 0.9 * losses[0], losses


def test_drawn_potentials_agree_at_exact_sensors_and_on_the_rim():
    problems = problems_with(12, rows=2)
    potentials = network(num_fine=45, num_pairs=3).predict_potentials(inputs(problems)[0]).detach()
    assert potentials.shape == (2, 6, 1, 45, 45)
    at_sensors = np.broadcast_to(problems.fields["potential"][:, None, None], (2, 6, 1, 12, 12))
    np.testing.assert_allclose(potentials[..., ::4, ::4], at_sensors, atol=1e-4)
    assert torch.all(potentials[..., 0] == 2.0) and potentials[..., 2, 2].std(dim=1).min() > 1e-6


def test_it_passes_through_exact_sensors_and_knows_the_rim():
    problems = problems_with(12, rows=4)
    potential = network(num_fine=45).predict_potentials(inputs(problems)[0]).flatten(0, 2)
    np.testing.assert_allclose(potential[:, ::4, ::4].detach(), problems.fields["potential"], atol=1e-5)
    assert torch.all(potential[:, 0] == 2.0) and torch.all(potential[:, :, -1] == 2.0)


def test_gradients_are_those_of_differences():
    problems = problems_with(8, rows=2)
    model = network(8, num_steps=100, num_fine=13, width=4, num_layers=1).double()
    for parameter in model.field.correct[-1].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    fields, times, initial = inputs(problems, torch.float64)
    times = 0.013 + 0.45 * times[:, ::20]  # not at t = 0, before which there is no motion

    def states(*arguments):
        output = model(*arguments)
        return torch.cat([output.q, output.p], dim=-1)

    arguments = tuple(x.clone().requires_grad_(True) for x in (fields, times, initial))
    assert torch.autograd.gradcheck(states, arguments, eps=1e-6, atol=1e-5, rtol=1e-4, nondet_tol=0.0, fast_mode=True)


def test_its_constants_stay_exact_in_any_type_of_the_network():
    model = network()
    assert {buffer.dtype for buffer in model.field.exact.buffers()} == {torch.float64}
    model.to(torch.float32)
    assert {buffer.dtype for buffer in model.field.exact.buffers()} == {torch.float64}
    assert not any("exact" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("channels", "domain", "values", "message"),
    [
        (1, ((0.0, 1.0),), {}, "fieldnet supports two degrees of freedom .* 1 or 4 channels; this task has 1 and 1"),
        (2, ((0.0, 1.0),) * 2, {}, "1 or 4 channels; this task has 2 and 2"),
        (4, ((0.0, 1.0),) * 2, {}, "blanes-moan6 needs unit mass, .* set architecture.method to gauss-legendre12"),
        (4, ((0.0, 1.0),) * 2, {"method": "gauss-legendre12", "rim": 2.0}, "rim is 2.0, which is for V alone"),
        (1, ((0.0, 1.0),) * 2, {"rim": 2.0, "sensor_noise": 0.1}, "sensor_noise takes at most 2,500 sensors, .* this task has 3,600"),
    ],
)
def test_what_it_cannot_do_is_one_clear_sentence(channels, domain, values, message):
    task = Task((60,) * len(domain), domain, 2.0, channels)
    with pytest.raises(InputError, match=message):
        build_operator(parse_architecture({"name": "fieldnet"} | values), task)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sensor_noise": 0.01}, r"sensor_noise is 0\.01; it needs a rim"),
        ({"periodic": True, "rim": 2.0}, r"periodic is true; it must be false with a rim \(2\)"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        load_config(None, {"architecture": {"name": "fieldnet"} | values})


def test_a_scale_of_the_loss_without_the_cauchy_loss_is_refused():
    with pytest.raises(InputError, match=r"loss_scale is 0\.1, which has no effect here: training\.loss must be cauchy"):
        load_config(None, {"training": {"loss_scale": 0.1}})
