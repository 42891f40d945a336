"""The contract of every architecture as tests that any package can run on its own. Needs pytest.

    from neural_hamilton.architectures.testing import OperatorContract, contract_cases

    @pytest.mark.parametrize(("name", "preset"), contract_cases("mynet"))
    class TestMyNet(OperatorContract):
        sizes = {"width": 16}  # small enough to overfit one batch in seconds

`name` is that of an architecture that can be found (see `registry`). Every preset of it is a case.

Shapes: B batch, T query times, d degrees of freedom.
"""

from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ..physics.errors import InputError
from .card import TrainedFor
from .model_folder import load_model, save_model
from .operator import ArchitectureConfig, DirectOperator, Operator, OperatorOutput
from .registry import build_operator, get_architecture, parse_architecture
from .task import Task

ONE_COORDINATE = Task(sensors=(20,), domain=((0.0, 1.0),), horizon=2.0)
TASKS = {
    "one coordinate": ONE_COORDINATE,
    "another domain": Task(sensors=(13,), domain=((-1.0, 2.0),), horizon=3.0),
    "few sensors": Task(sensors=(4,), domain=((0.0, 1.0),), horizon=2.0),
    "two channels": Task(sensors=(20,), domain=((0.0, 1.0),), horizon=2.0, channels=2),
    "two coordinates": Task(sensors=(6, 5), domain=((0.0, 1.0), (-1.0, 1.0)), horizon=1.5),
    "two coordinates, four channels": Task(sensors=(6, 5), domain=((0.0, 1.0), (-1.0, 1.0)), horizon=1.5, channels=4),
}
# Each architecture takes the sizes it has, where its own are not smaller still.
SMALL_SIZES = {
    "width": 32, "num_layers": 2, "num_channels": 16, "num_frequencies": 8, "num_heads": 4, "d_model": 32,
    "num_mamba_layers": 2, "d_state": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "d_feedforward": 64,
    "hidden_size": 32, "latent_size": 8, "num_modes": 6, "num_fourier_layers": 2,
}  # fmt: skip
_ENOUGH = 1e-4  # a loss that need not fall further when one batch is overfitted

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def contract_cases(*names: str) -> list[Any]:
    """Parameters ("name", "preset") for every preset of the architectures called `names`."""
    return [pytest.param(name, preset, id=f"{name}-{preset}") for name in names for preset in sorted(get_architecture(name).Config.presets)]


def oscillators(task: Task, rows: int = 4, queries: int = 12, dtype: torch.dtype = torch.float32) -> tuple[tuple[Tensor, ...], Tensor]:
    """Fields, times and initial states of harmonic oscillators of unit mass, one per coordinate; and their exact (q, p), (B, T, 2d).

    V = sum_i k_i (q_i - c_i)^2 / 2 around the middle c of the domain. Channels after the first hold a random constant.
    """
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.rand(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    left, right = torch.tensor(task.domain, dtype=torch.float64).T
    middle, length, degrees = (left + right) / 2, right - left, task.degrees_of_freedom
    stiffness = 4 + 8 * draw(rows, degrees)
    places = left + length * task.sensor_positions(0.0, 1.0).double()
    potential = 0.5 * (stiffness.unsqueeze(1) * (places - middle).square()).sum(dim=-1)
    constants = (1 + draw(rows, task.channels - 1)).unsqueeze(-1).expand(-1, -1, len(places))
    fields = torch.cat([potential.unsqueeze(1), constants], dim=1).reshape(rows, *task.field_shape)
    times = torch.sort(task.horizon * draw(rows, queries)).values
    away, p0 = 0.5 * length * (draw(rows, degrees) - 0.5), draw(rows, degrees) - 0.5
    rate = stiffness.sqrt()
    phase = times.unsqueeze(-1) * rate.unsqueeze(1)
    q = middle + away.unsqueeze(1) * phase.cos() + (p0 / rate).unsqueeze(1) * phase.sin()
    p = p0.unsqueeze(1) * phase.cos() - (away * rate).unsqueeze(1) * phase.sin()
    inputs = fields, times, torch.cat([middle + away, p0], dim=-1)
    return tuple(x.to(dtype) for x in inputs), torch.cat([q, p], dim=-1).to(dtype)


def total_loss(output: OperatorOutput, true: Tensor) -> Tensor:
    """Half the mean squared errors of q and p together; `true` is (B, T, 2d)."""
    true_q, true_p = true.chunk(2, dim=-1)
    return 0.5 * ((output.q - true_q.reshape(output.q.shape)).square().mean() + (output.p - true_p.reshape(output.p.shape)).square().mean())


def assert_same(one: OperatorOutput, other: OperatorOutput, atol: float = 1e-12) -> None:
    torch.testing.assert_close(one.q, other.q, atol=atol, rtol=0)
    torch.testing.assert_close(one.p, other.p, atol=atol, rtol=0)


class OperatorContract:
    """Subclass this, parametrised with `contract_cases`."""

    sizes: ClassVar[dict[str, Any]] = SMALL_SIZES

    def parse(self, name: str, preset: str, **others: Any) -> ArchitectureConfig:
        """The configuration of a small network."""
        full = parse_architecture({"name": name, "preset": preset}).model_dump()
        small = {key: min(full[key], size) for key, size in self.sizes.items() if key in full}
        return parse_architecture({"name": name, "preset": preset} | small | others)

    def own_task(self, name: str, preset: str) -> Task:
        """The first of TASKS that the architecture can do."""
        config = self.parse(name, preset)
        return next(task for task in TASKS.values() if get_architecture(name).why_not(config, task) is None)

    def build(self, name: str, preset: str, task: Task | None = None, **others: Any) -> Operator:
        """A small network with the same weights each time, or a skipped test where the architecture cannot do the task."""
        config, task = self.parse(name, preset, **others), task or self.own_task(name, preset)
        if reason := get_architecture(name).why_not(config, task):
            pytest.skip(reason)
        torch.manual_seed(0)
        return build_operator(config, task)

    @each_task
    def test_a_task_it_cannot_do_is_refused_with_the_reason(self, name: str, preset: str, task: Task) -> None:
        config = self.parse(name, preset)
        reason = get_architecture(name).why_not(config, task)
        if reason is None:
            assert build_operator(config, task).task == task
            return
        with pytest.raises(InputError) as caught:
            build_operator(config, task)
        assert reason in str(caught.value)

    @each_task
    @pytest.mark.parametrize("queries", [1, 7])
    def test_shapes_and_finiteness(self, name: str, preset: str, task: Task, queries: int) -> None:
        inputs, _ = oscillators(task, rows=3, queries=queries)
        output = self.build(name, preset, task)(*inputs)
        degrees = task.degrees_of_freedom
        assert output.q.shape == output.p.shape == ((3, queries) if degrees == 1 else (3, queries, degrees))
        assert output.auxiliary_loss.shape == ()
        assert all(torch.isfinite(part).all() for part in output)

    @each_task
    def test_gradient_reaches_every_parameter(self, name: str, preset: str, task: Task) -> None:
        model, (inputs, true) = self.build(name, preset, task), oscillators(task)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):  # a head that starts at zero lets gradients through only after its first step
            optimizer.zero_grad()
            output = model(*inputs)
            (total_loss(output, true + 0.3) + output.auxiliary_loss).backward()
            optimizer.step()
        assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]

    @each_task
    def test_overfits_one_batch(self, name: str, preset: str, task: Task) -> None:
        model, (inputs, true) = self.build(name, preset, task), oscillators(task)
        statistics = inputs[0].transpose(0, 1).flatten(1) if model.potential_mean.ndim else inputs[0]
        dims = (1,) if model.potential_mean.ndim else (0, 1)
        model.set_normalisation(statistics.mean(dim=dims), statistics.std(dim=dims).clamp(min=0.1))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

        def evaluate() -> float:
            model.eval()
            with torch.no_grad():
                loss = float(total_loss(model(*inputs), true))
            model.train()
            return loss

        first = evaluate()
        for step in range(400):
            optimizer.zero_grad()
            output = model(*inputs)
            (total_loss(output, true) + output.auxiliary_loss).backward()
            optimizer.step()
            if step % 20 == 19 and evaluate() < max(first / 10, _ENOUGH):
                return
        pytest.fail(f"loss went from {first:.3g} only to {evaluate():.3g}")

    @each_task
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_saved_and_loaded_is_the_same(self, name: str, preset: str, task: Task, dtype: torch.dtype, tmp_path: Any) -> None:
        model, (inputs, _) = self.build(name, preset, task).to(dtype), oscillators(task, dtype=dtype)
        model.set_normalisation(torch.full_like(model.potential_mean, 0.7), torch.full_like(model.potential_scale, 1.3))
        trained_for = TrainedFor.of(task, system="oscillators", ensemble={"name": "contract"}, initial_state=None)
        save_model(model.eval(), tmp_path / "model", trained_for, {"note": "test"})
        loaded = load_model(tmp_path / "model")
        assert (type(loaded), loaded.config, loaded.task, loaded.dtype) == (type(model), model.config, task, dtype)
        assert not loaded.training
        for one, other in zip(model(*inputs), loaded(*inputs), strict=True):
            assert torch.equal(one, other)

    def test_float64_agrees_with_float32(self, name: str, preset: str) -> None:
        model = self.build(name, preset).eval()
        single = model(*oscillators(self.own_task(name, preset))[0])
        double = model.double()(*oscillators(self.own_task(name, preset), dtype=torch.float64)[0])
        assert double.q.dtype == double.p.dtype == model.dtype == torch.float64
        assert_same(OperatorOutput(*(part.double() for part in single)), double, atol=1e-4)

    @each_task
    def test_rows_do_not_see_each_other(self, name: str, preset: str, task: Task) -> None:
        model, (inputs, _) = self.build(name, preset, task).double().eval(), oscillators(task, dtype=torch.float64)
        together, alone = model(*inputs), model(*(x[1:2] for x in inputs))
        assert_same(OperatorOutput(together.q[1:2], together.p[1:2], together.auxiliary_loss), alone)

    @each_task
    def test_queries_see_each_other_only_where_it_is_declared(self, name: str, preset: str, task: Task) -> None:
        """Where `queries_are_independent`, a prediction depends neither on the other query times nor on their number or order."""
        model, (inputs, _) = self.build(name, preset, task).eval(), oscillators(task)
        fields, times, initial = inputs
        with torch.no_grad():
            whole = model(fields, times, initial)
        for chosen in (torch.randperm(12, generator=torch.Generator().manual_seed(0)), torch.tensor([5]), torch.tensor([3, 3, 9])):
            with torch.no_grad():
                some = model(fields, times[:, chosen], initial)
            difference = max(float((some.q - whole.q[:, chosen]).abs().max()), float((some.p - whole.p[:, chosen]).abs().max()))
            assert (difference < 1e-5) is model.config.queries_are_independent

    @each_task
    def test_times_and_states_given_once_stand_for_every_row(self, name: str, preset: str, task: Task) -> None:
        model, (inputs, _) = self.build(name, preset, task).double(), oscillators(task, dtype=torch.float64)
        fields, times, initial = inputs
        repeated = model.eval()(fields, times[:1].repeat(4, 1), initial[:1].repeat(4, 1))
        for shared_times in (times[0], times[:1], times[:1].expand(4, -1)):
            for shared_initial in (initial[0], initial[:1].expand(4, -1), initial[:1].repeat(4, 1)):
                assert_same(model(fields, shared_times, shared_initial), repeated)

    def test_gradients_do_not_depend_on_how_times_are_given(self, name: str, preset: str) -> None:
        model, ((fields, times, initial), _) = (
            self.build(name, preset).double(),
            oscillators(self.own_task(name, preset), dtype=torch.float64),
        )
        gradients = []
        for given in (times[:1].repeat(4, 1), times[0]):
            torch.manual_seed(0)
            output = model(fields, given, initial)
            gradients.append(torch.autograd.grad((output.q * output.p).sum() + output.auxiliary_loss, list(model.parameters())))
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)

    @each_task
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    def test_initial_condition_is_exact_where_it_is_declared(self, name: str, preset: str, task: Task, training: bool) -> None:
        (fields, times, initial), _ = oscillators(task)
        model = self.build(name, preset, task).train(training)
        output = model(fields, torch.cat([torch.zeros(4, 1), times], dim=1), initial)
        predicted = torch.cat([output.q[:, 0].reshape(4, -1), output.p[:, 0].reshape(4, -1)], dim=-1)
        assert torch.equal(predicted, initial) is model.config.initial_condition_is_exact

    def test_predictions_depend_on_every_input(self, name: str, preset: str) -> None:
        model, (inputs, _) = self.build(name, preset).eval(), oscillators(self.own_task(name, preset))
        base = model(*inputs).p
        for changed in range(3):
            other = [1.1 * x if i == changed else x for i, x in enumerate(inputs)]
            assert (model(*other).p - base).abs().max() > 1e-6

    def test_evaluation_is_deterministic_and_has_no_auxiliary_loss(self, name: str, preset: str) -> None:
        model, (inputs, _) = self.build(name, preset).eval(), oscillators(self.own_task(name, preset))
        one, other = model(*inputs), model(*inputs)
        assert torch.equal(one.q, other.q)
        assert one.auxiliary_loss.item() == 0.0

    def test_wrong_shapes_are_refused(self, name: str, preset: str) -> None:
        model, ((fields, times, initial), _) = self.build(name, preset), oscillators(self.own_task(name, preset))
        task = model.task
        with pytest.raises(
            ValueError, match=r"19 sensors.*20" if task.degrees_of_freedom == 1 else r"fields have shape.*this network reads"
        ):
            model(fields[..., 1:], times, initial)
        with pytest.raises(ValueError, match=rf"3 numbers.*{2 * task.degrees_of_freedom}"):
            model(fields, times, initial[:, :1].repeat(1, 3))

    def test_unknown_keys_are_refused(self, name: str, preset: str) -> None:
        with pytest.raises(ValidationError, match="nonsense"):
            self.parse(name, preset, nonsense=1)
        with pytest.raises(InputError, match=r"architecture\.num_sensors.*the dataset decides"):
            self.parse(name, preset, num_sensors=20)

    def test_every_key_has_an_effect(self, name: str, preset: str) -> None:
        """On the weights or the output; a value without meaning is rejected by the key's name."""
        config = self.parse(name, preset)
        for key, value in config.model_dump(exclude={"name"}).items():
            try:
                changed = self.parse(name, preset, **{key: _another_value(value)})
                alike = _are_alike(config, changed, self.own_task(name, preset))
            except (ValidationError, InputError) as error:
                assert key in str(error)
                continue
            assert not alike, f"{key} has no effect"

    def test_normalisation_is_applied(self, name: str, preset: str) -> None:
        """To networks without mechanics: others read V in its own units."""
        model, ((fields, times, initial), _) = (
            self.build(name, preset).double().eval(),
            oscillators(self.own_task(name, preset), dtype=torch.float64),
        )
        if isinstance(model, DirectOperator):
            plain = model((fields - 0.7) / 1.3, times, initial)
            model.set_normalisation(0.7, 1.3)
            assert_same(model(fields, times, initial), plain)

    def test_compiled_is_the_same(self, name: str, preset: str) -> None:
        """Traced through, gradients too, without generating code."""
        fewer: dict[str, Any] = {
            key: 1 for key in self.parse(name, preset).model_dump() if key.startswith("num_") and key.endswith("_layers")
        }
        model = self.build(name, preset, **fewer).double().eval()
        inputs, _ = oscillators(self.own_task(name, preset), dtype=torch.float64)
        torch._dynamo.reset()
        parameters, results = list(model.parameters()), []
        for network in (model, torch.compile(model, backend="aot_eager")):
            output = network(*inputs)
            results.append((output, torch.autograd.grad((output.q**2).mean() + output.p.mean(), parameters, allow_unused=True)))
        (one, one_gradients), (other, other_gradients) = results
        assert_same(one, other)
        for gradient, compiled in zip(one_gradients, other_gradients, strict=True):
            assert (gradient is None) == (compiled is None)  # parameters that only training uses
            if gradient is not None:
                torch.testing.assert_close(gradient, compiled, atol=1e-12, rtol=1e-8)


def _another_value(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value if value else 1
    if isinstance(value, list):
        return [_another_value(one) for one in value]
    if isinstance(value, str):
        return f"another {value}"
    return 1.5 * value if value else 0.2


def _are_alike(config: ArchitectureConfig, other: ArchitectureConfig, task: Task) -> bool:
    """Whether networks of two configurations start with the same weights and compute the same, in float64 as some errors are below 1e-7."""
    states, outputs = [], []
    for each in (config, other):
        torch.manual_seed(0)
        model = build_operator(each, task)
        states.append(model.state_dict())
        torch.manual_seed(0)
        outputs.append(model.double().train()(*oscillators(task, dtype=torch.float64)[0]))
    same_weights = states[0].keys() == states[1].keys() and all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    return same_weights and all(torch.equal(one, two) for one, two in zip(*outputs, strict=True))
