"""Every architecture keeps the one contract, in every preset. A new architecture is tested by having a file."""

import math

import pytest
import torch
from pydantic import ValidationError

from neural_hamilton.architectures import available_architectures, build_operator, parse_architecture
from neural_hamilton.architectures.operator import OperatorOutput
from neural_hamilton.architectures.task import Task
from neural_hamilton.architectures.testing import OperatorContract, assert_same, contract_cases, oscillators
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import load_config

DIRECT = ["deeponet", "fno", "mambonet", "traonet", "varonet"]


@pytest.mark.parametrize(("name", "preset"), contract_cases(*available_architectures()))
class TestContract(OperatorContract):
    pass


class TestPhaseAngle(OperatorContract):
    """MambONet with the phase angle, which no preset has."""

    @pytest.fixture
    def name(self):
        return "mambonet"

    @pytest.fixture
    def preset(self):
        return "default"

    def parse(self, name, preset, **others):
        return super().parse(name, preset, **{"phase_angle": True} | others)

    @pytest.mark.slow
    def test_compiled_is_the_same(self, name, preset):
        super().test_compiled_is_the_same(name, preset)

    def test_normalisation_is_applied(self, name, preset):
        pytest.skip("the angle is that of V in its own units; see tests/test_architectures_mambonet.py")


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize("preset", ["default"])
class TestWindows(OperatorContract):
    """Networks that predict window by window."""

    def parse(self, name, preset, **others):
        return super().parse(name, preset, **{"window": 0.4} | others)

    def test_a_window_begins_where_the_one_before_ended(self, name, preset):
        network = self.build(name, preset).double().eval()
        (fields, _, initial), _ = oscillators(self.own_task(name, preset), dtype=torch.float64)
        window, state = network.window, initial
        for number in range(5):  # 5 windows of 0.4 are the horizon, 2
            times = torch.tensor([[0.1, window]], dtype=torch.float64)
            output = network(fields, times, state)
            at_once = network(fields, number * window + times * (1 - 1e-12), initial)
            assert_same(at_once, output, atol=1e-9)
            state = torch.stack([output.q[:, 1], output.p[:, 1]], dim=-1)

    def test_whole_numbers_are_times_too(self, name, preset):
        network = self.build(name, preset).eval()
        (fields, _, initial), _ = oscillators(self.own_task(name, preset))
        assert_same(network(fields, torch.tensor([[0, 1, 2]]), initial), network(fields, torch.tensor([[0.0, 1.0, 2.0]]), initial))

    def test_weights_that_are_not_numbers_give_predictions_that_are_not(self, name, preset):
        """And no exception: training reports them by the step."""
        keys = self.parse(name, preset).model_dump().keys() & {"local_memory", "local_sensors"}
        network = self.build(name, preset, **dict.fromkeys(keys, 1)).eval()
        with torch.no_grad():
            list(network.parameters())[-1].fill_(math.nan)
        assert not network(*oscillators(self.own_task(name, preset))[0]).q.isfinite().any(dim=1).all()

    @pytest.mark.slow
    def test_compiled_is_the_same(self, name, preset):
        super().test_compiled_is_the_same(name, preset)

    def test_each_query_may_start_from_its_own_state(self, name, preset):
        network = self.build(name, preset).double().eval()
        (fields, times, initial), _ = oscillators(self.own_task(name, preset), dtype=torch.float64)
        elapsed, shift = times / times.max() * network.window, torch.linspace(0, 0.1, times.shape[1]).double()
        starts = initial[:, None] + shift[:, None]
        together = network(fields, elapsed, starts)
        apart = [network(fields, elapsed[:, [index]], starts[:, index]) for index in range(times.shape[1])]
        assert_same(together, OperatorOutput(*(torch.cat([part[k] for part in apart], dim=1) for k in (0, 1)), together.auxiliary_loss))

    def test_windows_that_do_not_fit_are_refused(self, name, preset):
        for window in (2.5, 0.009):
            with pytest.raises(InputError, match=rf"window is {window}; it must lie between a 200th of the horizon and the horizon, 2"):
                self.build(name, preset, window=window)
        with pytest.raises(InputError, match=r"window is 0\.4; without hard_initial_condition a trajectory would jump"):
            parse_architecture({"name": name, "window": 0.4, "hard_initial_condition": False, "gate_time": None})
        (fields, times, initial), _ = oscillators(self.own_task(name, preset))
        with pytest.raises(ValueError, match="need a network with a window"):
            self.build(name, preset, window=None)(fields, times, initial[:, None].expand(-1, times.shape[1], -1))


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize(("sensors", "channels"), [((8,), 1), ((8, 12), 2)])
def test_a_network_of_patches_predicts_and_depends_on_each_sensor(name, sensors, channels):
    task = Task(sensors=sensors, domain=((0.0, 1.0),) * len(sensors), horizon=2.0, channels=channels)
    network = build_operator(parse_architecture({"name": name, "patch_size": 2}), task).eval()
    (fields, times, initial), _ = oscillators(task)
    fields.requires_grad_()
    output = network(fields, times, initial)
    (gradient,) = torch.autograd.grad(output.q.square().sum(), fields)
    assert output.q.isfinite().all() and (gradient != 0).all()


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize(("sensors", "channels"), [((12,), 1), ((8, 12), 2)])
def test_fields_near_a_state_are_read(name, sensors, channels):
    """The sensors around the state matter to a network that has forgotten what it read, and those far away do not."""
    task = Task(sensors=sensors, domain=((0.0, 1.0),) * len(sensors), horizon=2.0, channels=channels)
    network = build_operator(parse_architecture({"name": name, "patch_size": 2, "window": 0.5, "local_sensors": 3}), task).eval()
    read = network.read
    network.read = lambda patches, initial: read(torch.zeros_like(patches), initial)
    (fields, _, initial), _ = oscillators(task)
    initial[:, : len(sensors)] = 0.02  # in the first cell
    fields.requires_grad_()
    q = network(fields, torch.tensor([[0.1, 0.5]]), initial).q  # within the first window
    (gradient,) = torch.autograd.grad(q.square().sum(), fields)
    leading = (slice(None),) * (fields.ndim - len(sensors))
    assert (gradient[(*leading, *(slice(0, 3),) * len(sensors))] != 0).all()
    assert (gradient[(*leading, *(slice(4, None),) * len(sensors))] == 0).all()


def test_local_sensors_that_do_not_fit_are_refused():
    task = Task(sensors=(8, 12), domain=((0.0, 1.0),) * 2, horizon=2.0)
    with pytest.raises(InputError, match=r"local_sensors is 9; with 8 sensors along a coordinate it is at most 7"):
        build_operator(parse_architecture({"name": "traonet", "window": 0.5, "local_sensors": 9}), task)
    with pytest.raises(ValidationError, match=r"local_sensors is 4; it must be odd"):
        parse_architecture({"name": "deeponet", "window": 0.5, "local_sensors": 4})
    with pytest.raises(ValidationError, match=r"local_sensors is 3; it needs a window"):
        parse_architecture({"name": "varonet", "local_sensors": 3})
    with pytest.raises(ValidationError, match=r"local_memory is true; with phase_angle, attention finds the sensors"):
        parse_architecture({"name": "mambonet", "local_memory": True, "phase_angle": True})


def test_patches_that_do_not_fit_the_sensors_are_refused():
    task = Task(sensors=(25,), domain=((0.0, 1.0),), horizon=2.0)
    with pytest.raises(InputError, match=r"patch_size is 4; it must divide the sensors along each coordinate, 25"):
        build_operator(parse_architecture({"name": "traonet", "patch_size": 4}), task)
    with pytest.raises(InputError, match=r"patch_size is 2; it must be 1 with phase_angle"):
        load_config(None, {"architecture": {"name": "mambonet", "patch_size": 2, "phase_angle": True}})
    with pytest.raises(InputError, match=r"window is 0\.5; it must be null with phase_angle"):
        load_config(None, {"architecture": {"name": "mambonet", "window": 0.5, "phase_angle": True}})


def test_unknown_architecture_names_the_choices():
    with pytest.raises(InputError, match=r"architecture\.name is 'resnet'.*mambonet.*orbitnet"):
        parse_architecture({"name": "resnet"})


@pytest.mark.parametrize("name", ["traonet", "mambonet", "fno"])
def test_heads_must_divide_the_width(name):
    with pytest.raises(InputError, match=r"d_model is 30.*multiple of num_heads, 8"):
        load_config(None, {"architecture": {"name": name, "d_model": 30, "num_heads": 8}})


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ({"name": "deeponet", "num_sensors": 50}, r"num_sensors is 50.*the dataset decides"),
        ({"name": "mambonet", "orbit": "solved"}, r"orbit is 'solved'.*orbitnet"),
        (
            {"name": "mambonet", "hard_initial_condition": False, "gate_time": 0.2},
            r"gate_time is 0\.2; it must be null without hard_initial",
        ),
        (
            {"name": "traonet", "published_layers": True, "num_frequencies": 16},
            r"num_frequencies is 16; it must be 0 with published_layers",
        ),
        (
            {"name": "mambonet", "published_layers": True, "phase_angle": True},
            r"phase_angle is true; it must be false with published_layers",
        ),
        ({"name": "orbitnet", "d_feedforward": 64}, r"architecture\.d_feedforward is not a known key"),
        ({"name": "orbitnet", "gate_time": 0.1}, r"architecture\.gate_time is not a known key"),
        ({"name": "varonet", "preset": "published", "num_decoder_layers": 3}, r"num_decoder_layers is 3.*num_encoder_layers, 4"),
    ],
)
def test_a_key_without_meaning_is_rejected_by_name(architecture, sentence):
    with pytest.raises(InputError, match=sentence):
        load_config(None, {"architecture": architecture})


@pytest.mark.parametrize("degrees", [1, 2])
def test_powers_of_t_start_with_the_velocity(degrees):
    task = Task(sensors=(8,) * degrees, domain=((0.0, 1.0),) * degrees, horizon=2.0)
    config = parse_architecture({"name": "deeponet", "gate_time": None})
    network = build_operator(config, task).double().eval()
    (fields, _, initial), _ = oscillators(task, dtype=torch.float64)
    small = 1e-5
    output = network(fields, torch.tensor([[0.0, small]], dtype=torch.float64), initial)
    velocity = (output.q[:, 1] - output.q[:, 0]) / small
    torch.testing.assert_close(velocity.reshape(len(fields), -1), initial[:, degrees:], atol=1e-3, rtol=0)
    assert "q0 + p0 t" in config.built_in
    several = Task(sensors=(8,) * degrees, domain=((0.0, 1.0),) * degrees, horizon=2.0, channels=3)
    with pytest.raises(InputError, match=r"gate_time: null starts from q0 \+ p0 t, which needs unit mass.*Give gate_time a number"):
        build_operator(config, several)


@pytest.mark.parametrize(("sensors", "patch_size"), [((12,), 1), ((12,), 2), ((8, 12), 2)])
def test_memory_at_a_state_is_linear_between_the_tokens(sensors, patch_size):
    """What is linear in the place is read exactly, from the middle of the first token to that of the last."""
    task = Task(sensors=sensors, domain=((-1.0, 2.0), (0.0, 1.0))[: len(sensors)], horizon=2.0)
    network = build_operator(parse_architecture({"name": "traonet", "local_memory": True, "patch_size": patch_size}), task)
    left, right = torch.tensor(task.domain).T
    places = left + (right - left) * task.sensor_positions(0.0, 1.0)  # (L, d)
    coordinates = places.T.reshape(len(sensors), *task.field_shape)  # each as a field of a batch
    tokens = network.patches.as_sequence(task.cut_into_patches(coordinates, patch_size))
    memory = tokens.mean(dim=-1).T.unsqueeze(0)  # the middle of each token, as if it were its encoding
    q = left + (right - left) * (0.2 + 0.6 * torch.rand(1, 9, len(sensors)))
    read = network._at_state(memory, torch.cat([q, torch.zeros_like(q)], dim=-1))
    torch.testing.assert_close(read, q)
