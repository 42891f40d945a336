"""The one contract of every architecture. A new architecture is tested by being registered."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from neural_hamilton.architectures import ARCHITECTURES, OperatorOutput, build_operator, load_model, parse_architecture, save_model
from neural_hamilton.physics import InputError

# Small enough to overfit in seconds; each architecture takes the sizes it knows.
SIZES = {
    "num_sensors": 20, "width": 32, "num_layers": 2, "num_channels": 16, "num_frequencies": 8, "num_heads": 4, "d_model": 32,
    "num_mamba_layers": 2, "d_state": 4, "num_encoder_layers": 2, "num_decoder_layers": 1, "d_feedforward": 64, "hidden": 16,
    "hidden_size": 16, "d_hidden": 16, "latent": 8, "latent_size": 8, "d_latent": 8, "num_modes": 6, "num_fourier_layers": 2,
}  # fmt: skip


def small(name, **others):
    fields = ARCHITECTURES[name].Config.model_fields
    torch.manual_seed(0)
    return build_operator(parse_architecture({"name": name} | {k: v for k, v in (SIZES | others).items() if k in fields}))


def batch(rows=4, queries=12, dtype=torch.float32):
    rng = torch.Generator().manual_seed(1)
    potential = 2 - 3 * torch.rand(rows, 20, generator=rng, dtype=torch.float64)
    times = torch.sort(2 * torch.rand(rows, queries, generator=rng, dtype=torch.float64)).values
    initial = torch.rand(rows, 2, generator=rng, dtype=torch.float64) * 2 - 0.5
    return potential.to(dtype), times.to(dtype), initial.to(dtype)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
class TestContract:
    def test_shapes_and_finiteness(self, name):
        output = small(name)(*batch(rows=3, queries=7))
        assert isinstance(output, OperatorOutput)
        assert output.q.shape == output.p.shape == (3, 7)
        assert output.auxiliary_loss.shape == ()
        assert all(torch.isfinite(part).all() for part in output)

    def test_default_sizes_build_and_answer(self, name):
        model = build_operator(parse_architecture({"name": name})).eval()
        with torch.no_grad():
            output = model(torch.full((1, model.config.num_sensors), 1.0), torch.linspace(0, 2, 5)[None], torch.zeros(1, 2))
        assert torch.isfinite(output.q).all()

    def test_gradient_reaches_every_parameter(self, name):
        model, inputs = small(name), batch()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):  # a head that starts at zero lets gradients through only after its first step
            optimizer.zero_grad()
            output = model(*inputs)
            ((output.q - 0.5) ** 2 + (output.p - 0.3) ** 2).mean().add(output.auxiliary_loss).backward()
            optimizer.step()
        silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert not silent

    def test_overfits_one_batch(self, name):
        model, (potential, times, initial) = small(name), batch()
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

    def test_saved_and_loaded_is_the_same(self, name, tmp_path):
        model = small(name)
        model.set_normalisation(0.7, 1.3)
        save_model(model.eval(), tmp_path / "model", {"note": "test"})
        loaded = load_model(tmp_path / "model")
        assert type(loaded) is type(model)
        assert loaded.config == model.config
        assert not loaded.training
        for one, other in zip(model(*batch()), loaded(*batch()), strict=True):
            assert torch.equal(one, other)

    def test_float64(self, name):
        model = small(name).eval()
        single = model(*batch())
        double = model.double()(*batch(dtype=torch.float64))
        assert double.q.dtype == double.p.dtype == torch.float64
        np.testing.assert_allclose(double.q.detach(), single.q.detach(), atol=1e-4)
        np.testing.assert_allclose(double.p.detach(), single.p.detach(), atol=1e-4)

    def test_rows_do_not_see_each_other(self, name):
        model, inputs = small(name).double().eval(), batch(dtype=torch.float64)
        together, alone = model(*inputs), model(*(x[1:2] for x in inputs))
        torch.testing.assert_close(together.q[1:2], alone.q, atol=1e-12, rtol=0)
        torch.testing.assert_close(together.p[1:2], alone.p, atol=1e-12, rtol=0)

    def test_queries_do_not_see_each_other(self, name):
        """An answer at one time depends neither on the other times asked for, nor on their number or order."""
        model, (potential, times, initial) = small(name).double().eval(), batch(dtype=torch.float64)
        whole = model(potential, times, initial)
        for chosen in (torch.randperm(12, generator=torch.Generator().manual_seed(0)), torch.tensor([5]), torch.tensor([3, 3, 9])):
            some = model(potential, times[:, chosen], initial)
            torch.testing.assert_close(some.q, whole.q[:, chosen], atol=1e-12, rtol=0)
            torch.testing.assert_close(some.p, whole.p[:, chosen], atol=1e-12, rtol=0)

    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_initial_condition_is_exact(self, name, mode):
        potential, times, initial = batch()
        output = getattr(small(name), mode)()(potential, torch.cat([torch.zeros(4, 1), times], dim=1), initial)
        assert torch.equal(output.q[:, 0], initial[:, 0])
        assert torch.equal(output.p[:, 0], initial[:, 1])

    def test_answers_depend_on_everything(self, name):
        model, inputs = small(name).eval(), batch()
        base = model(*inputs).p
        for changed in range(3):
            other = [x + 0.1 if i == changed else x for i, x in enumerate(inputs)]
            assert (model(*other).p - base).abs().max() > 1e-6

    def test_evaluation_is_deterministic(self, name):
        model = small(name).eval()
        assert torch.equal(model(*batch()).q, model(*batch()).q)

    def test_wrong_number_of_sensors_is_refused(self, name):
        potential, times, initial = batch()
        with pytest.raises(ValueError, match=r"19 sensors.*20"):
            small(name)(potential[:, 1:], times, initial)

    def test_unknown_size_is_refused(self, name):
        with pytest.raises(ValidationError, match="nonsense"):
            parse_architecture({"name": name, "nonsense": 1})

    def test_normalisation_is_applied(self, name):
        potential, times, initial = batch(dtype=torch.float64)
        model = small(name).double().eval()
        plain = model((potential - 0.7) / 1.3, times, initial).q
        model.set_normalisation(0.7, 1.3)
        torch.testing.assert_close(model(potential, times, initial).q, plain, atol=1e-12, rtol=0)


def test_unknown_architecture_names_the_choices():
    with pytest.raises(InputError, match=r"architecture\.name is 'resnet'.*mambonet"):
        parse_architecture({"name": "resnet"})


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"30.*multiple of num_heads, 8"):
        build_operator(parse_architecture({"name": "mambonet", "d_model": 30}))
