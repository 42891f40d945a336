"""The one contract of every architecture and preset. A new architecture is tested by being registered."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from neural_hamilton.architectures import ARCHITECTURES, OperatorOutput, build_operator, load_model, parse_architecture, save_model
from neural_hamilton.architectures.layers.encoder_decoder import EncoderDecoder
from neural_hamilton.physics import InputError

CASES = [
    pytest.param(name, preset, id=f"{name}-{preset}")
    for name, architecture in sorted(ARCHITECTURES.items())
    for preset in sorted(architecture.Config.presets)
]
# Small enough to overfit in seconds; each architecture takes the sizes it knows, where its own are not smaller still.
SIZES = {
    "num_sensors": 20, "width": 32, "num_layers": 2, "num_channels": 16, "num_frequencies": 8, "num_heads": 4, "d_model": 32,
    "num_mamba_layers": 2, "d_state": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "d_feedforward": 64,
    "hidden_size": 32, "latent_size": 8, "num_modes": 6, "num_fourier_layers": 2,
}  # fmt: skip


def small(name, preset="default", **others):
    full = parse_architecture({"name": name, "preset": preset})
    sizes = {key: min(value, SIZES[key]) for key, value in full.model_dump().items() if key in SIZES}
    torch.manual_seed(0)
    return build_operator(parse_architecture({"name": name, "preset": preset} | sizes | others))


def by_attention(name):
    """What makes MambONet read V and t alone."""
    return {"orbit": "none"} if name == "mambonet" else {}


def batch(rows=4, queries=12, dtype=torch.float32, sensors=20):
    rng = torch.Generator().manual_seed(1)
    potential = 2 - 3 * torch.rand(rows, sensors, generator=rng, dtype=torch.float64)
    times = torch.sort(2 * torch.rand(rows, queries, generator=rng, dtype=torch.float64)).values
    initial = torch.rand(rows, 2, generator=rng, dtype=torch.float64) * 2 - 0.5
    return potential.to(dtype), times.to(dtype), initial.to(dtype)


def assert_same_answers(one, other, atol=1e-12):
    torch.testing.assert_close(one.q, other.q, atol=atol, rtol=0)
    torch.testing.assert_close(one.p, other.p, atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "preset"), CASES)
class TestContract:
    def test_shapes_and_finiteness(self, name, preset):
        for queries in (1, 7):
            output = small(name, preset)(*batch(rows=3, queries=queries))
            assert isinstance(output, OperatorOutput)
            assert output.q.shape == output.p.shape == (3, queries)
            assert output.auxiliary_loss.shape == ()
            assert all(torch.isfinite(part).all() for part in output)

    @pytest.mark.parametrize("sensors", [4, 13, 101])
    def test_any_number_of_sensors(self, name, preset, sensors):
        output = small(name, preset, num_sensors=sensors)(*batch(rows=2, sensors=sensors))
        assert torch.isfinite(output.q).all()

    def test_gradient_reaches_every_parameter(self, name, preset):
        model, inputs = small(name, preset), batch()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):  # a head that starts at zero lets gradients through only after its first step
            optimizer.zero_grad()
            output = model(*inputs)
            ((output.q - 0.5) ** 2 + (output.p - 0.3) ** 2).mean().add(output.auxiliary_loss).backward()
            optimizer.step()
        silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert not silent

    def test_overfits_one_batch(self, name, preset):
        # These are no orbits: a network that solves for one cannot learn them.
        model, (potential, times, initial) = small(name, preset, **by_attention(name)), batch()
        model.set_normalisation(float(potential.mean()), float(potential.std()))
        phase = (1 + 2 * potential[:, :1].sigmoid()) * times
        true_q = initial[:, :1] * phase.cos() + initial[:, 1:] * times * (-times).exp()
        true_p = initial[:, 1:] * phase.cos() - times.tanh() * phase.sin()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

        def data_loss():
            model.eval()
            with torch.no_grad():
                output = model(potential, times, initial)
            model.train()
            return 0.5 * float(((output.q - true_q) ** 2).mean() + ((output.p - true_p) ** 2).mean())

        first = data_loss()
        for step in range(400):
            optimizer.zero_grad()
            output = model(potential, times, initial)
            (0.5 * (((output.q - true_q) ** 2).mean() + ((output.p - true_p) ** 2).mean()) + output.auxiliary_loss).backward()
            optimizer.step()
            if step % 20 == 19 and data_loss() < first / 10:
                return
        pytest.fail(f"loss went from {first:.3g} only to {data_loss():.3g}")

    def test_saved_and_loaded_is_the_same(self, name, preset, tmp_path):
        model = small(name, preset)
        model.set_normalisation(0.7, 1.3)
        save_model(model.eval(), tmp_path / "model", {"note": "test"})
        loaded = load_model(tmp_path / "model")
        assert type(loaded) is type(model)
        assert loaded.config == model.config
        assert not loaded.training
        for one, other in zip(model(*batch()), loaded(*batch()), strict=True):
            assert torch.equal(one, other)

    def test_float64(self, name, preset):
        model = small(name, preset).eval()
        single = model(*batch())
        double = model.double()(*batch(dtype=torch.float64))
        assert double.q.dtype == double.p.dtype == torch.float64
        np.testing.assert_allclose(double.q.detach(), single.q.detach(), atol=1e-4)
        np.testing.assert_allclose(double.p.detach(), single.p.detach(), atol=1e-4)

    def test_rows_do_not_see_each_other(self, name, preset):
        model, inputs = small(name, preset).double().eval(), batch(dtype=torch.float64)
        together, alone = model(*inputs), model(*(x[1:2] for x in inputs))
        assert_same_answers(OperatorOutput(together.q[1:2], together.p[1:2], together.auxiliary_loss), alone)

    def test_queries_see_each_other_only_where_it_is_declared(self, name, preset):
        """An answer at one time depends neither on the other times asked for, nor on their number or order."""
        model, (potential, times, initial) = small(name, preset).eval(), batch()
        with torch.no_grad():
            whole = model(potential, times, initial)
        for chosen in (torch.randperm(12, generator=torch.Generator().manual_seed(0)), torch.tensor([5]), torch.tensor([3, 3, 9])):
            with torch.no_grad():
                some = model(potential, times[:, chosen], initial)
            difference = max(float((some.q - whole.q[:, chosen]).abs().max()), float((some.p - whole.p[:, chosen]).abs().max()))
            assert (difference < 1e-5) is model.config.queries_are_independent

    def test_times_and_states_given_once_stand_for_every_row(self, name, preset):
        model, (potential, times, initial) = small(name, preset).double(), batch(dtype=torch.float64)
        repeated = model.eval()(potential, times[:1].repeat(4, 1), initial[:1].repeat(4, 1))
        for shared_times in (times[0], times[:1], times[:1].expand(4, -1)):
            for shared_initial in (initial[0], initial[:1].expand(4, -1), initial[:1].repeat(4, 1)):
                once = model(potential, shared_times, shared_initial)
                assert once.q.shape == (4, 12)
                assert_same_answers(once, repeated)

    def test_gradients_do_not_depend_on_how_times_are_given(self, name, preset):
        model, (potential, times, initial) = small(name, preset).double(), batch(dtype=torch.float64)
        gradients = []
        for given in (times[:1].repeat(4, 1), times[0]):
            torch.manual_seed(0)
            output = model(potential, given, initial)
            gradients.append(torch.autograd.grad((output.q * output.p).sum() + output.auxiliary_loss, list(model.parameters())))
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)

    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_initial_condition_is_exact_where_it_is_imposed(self, name, preset, mode):
        potential, times, initial = batch()
        model = getattr(small(name, preset), mode)()
        output = model(potential, torch.cat([torch.zeros(4, 1), times], dim=1), initial)
        exact = torch.equal(output.q[:, 0], initial[:, 0]) and torch.equal(output.p[:, 0], initial[:, 1])
        assert exact is model.config.hard_initial_condition

    def test_answers_depend_on_everything(self, name, preset):
        model, inputs = small(name, preset).eval(), batch()
        base = model(*inputs).p
        for changed in range(3):
            other = [x + 0.1 if i == changed else x for i, x in enumerate(inputs)]
            assert (model(*other).p - base).abs().max() > 1e-6

    def test_evaluation_is_deterministic_and_has_no_auxiliary_loss(self, name, preset):
        model = small(name, preset).eval()
        one, other = model(*batch()), model(*batch())
        assert torch.equal(one.q, other.q)
        assert one.auxiliary_loss.item() == 0.0

    def test_wrong_number_of_sensors_is_refused(self, name, preset):
        potential, times, initial = batch()
        with pytest.raises(ValueError, match=r"19 sensors.*20"):
            small(name, preset)(potential[:, 1:], times, initial)

    def test_unknown_size_is_refused(self, name, preset):
        with pytest.raises(ValidationError, match="nonsense"):
            parse_architecture({"name": name, "preset": preset, "nonsense": 1})

    def test_normalisation_is_applied(self, name, preset):
        potential, times, initial = batch(dtype=torch.float64)
        # An orbit is that of V in its own units, whatever the normalisation; tests/test_architectures_orbits.py holds it.
        alone = by_attention(name)
        model = small(name, preset, **alone).double().eval()
        plain = model((potential - 0.7) / 1.3, times, initial)
        model.set_normalisation(0.7, 1.3)
        assert_same_answers(model(potential, times, initial), plain)

    def test_compiled_is_the_same(self, name, preset):
        """Traced through, gradients too, without generating code."""
        model = small(name, preset)
        fewer = {key: 1 for key in model.config.model_dump() if key.endswith("_layers") and key.startswith("num_")}
        check_compiled(small(name, preset, **fewer).double(), batch(dtype=torch.float64))


def check_compiled(model, inputs):
    torch._dynamo.reset()
    model.eval()
    parameters, results = list(model.parameters()), []
    for network in (model, torch.compile(model, backend="aot_eager")):
        output = network(*inputs)
        results.append((output, torch.autograd.grad((output.q**2).mean() + output.p.mean(), parameters, allow_unused=True)))
    (one, one_gradients), (other, other_gradients) = results
    assert_same_answers(one, other)
    for gradient, compiled in zip(one_gradients, other_gradients, strict=True):
        assert (gradient is None) == (compiled is None)  # what makes the variance is not in evaluation
        if gradient is not None:
            torch.testing.assert_close(gradient, compiled, atol=1e-12, rtol=1e-8)


@pytest.mark.slow
def test_compiled_by_inductor_is_the_same():
    """With code generated, for one small network of the layers that most share; all are traced above."""
    model = small("traonet", num_encoder_layers=1, num_decoder_layers=1).eval()
    torch._dynamo.reset()
    with torch.no_grad():
        assert_same_answers(torch.compile(model)(*batch()), model(*batch()), atol=1e-5)


def test_unknown_architecture_names_the_choices():
    with pytest.raises(InputError, match=r"architecture\.name is 'resnet'.*mambonet"):
        parse_architecture({"name": "resnet"})


@pytest.mark.parametrize(("name", "preset"), [case for case in CASES if issubclass(ARCHITECTURES[str(case.values[0])], EncoderDecoder)])
def test_heads_must_divide_the_width(name, preset):
    with pytest.raises(InputError, match=r"30.*multiple of num_heads, 8"):
        build_operator(parse_architecture({"name": name, "preset": preset, "d_model": 30, "num_heads": 8} | by_attention(name)))
