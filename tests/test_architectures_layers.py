"""The shared layers against formulas written out by hand, and the encoders against other ways of computing the same."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from neural_hamilton.architectures import Task, build_operator, parse_architecture
from neural_hamilton.architectures.fno import FourierLayer, SpectralConvolution, lowest_modes
from neural_hamilton.architectures.layers import transformer as layers
from neural_hamilton.architectures.layers.basics import TimeFeatures, distinct_rows
from neural_hamilton.architectures.layers.local_fields import LocalFields
from neural_hamilton.architectures.layers.mamba import BidirectionalMamba, MambaLayer
from neural_hamilton.architectures.layers.transformer import (
    CrossAttentionDecoder,
    FeedForward,
    IndexedEmbedding,
    SelfAttentionLayer,
    SensorEmbedding,
    TimeQueries,
)
from neural_hamilton.physics import InputError

TASK = Task(sensors=(12,), domain=((0.0, 1.0),), horizon=2.0)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(query, key, value, num_heads):
    """Attention, a head and a row at a time."""
    rows = []
    for q, k, v in zip(query, key, value, strict=True):
        heads = [
            torch.softmax(qh @ kh.T / math.sqrt(qh.shape[-1]), dim=-1) @ vh
            for qh, kh, vh in zip(*(x.chunk(num_heads, dim=-1) for x in (q, k, v)), strict=True)
        ]
        rows.append(torch.cat(heads, dim=-1))
    return torch.stack(rows)


def test_cross_attention_decoder_is_its_formula():
    torch.manual_seed(0)
    decoder = CrossAttentionDecoder(2, 8, 4, 16).double()
    query, memory = randn(3, 5, 8), randn(3, 7, 8, seed=1)
    expected = query
    for layer in decoder:
        key, value = layer.key_value(memory).chunk(2, dim=-1)
        expected = expected + layer.project(by_hand(layer.query(layer.attention_norm(expected)), key, value, 4))
        expected = expected + layer.feedforward(layer.feedforward_norm(expected))
    torch.testing.assert_close(decoder(query, memory), expected, atol=1e-12, rtol=0)


def test_self_attention_is_its_formula():
    torch.manual_seed(0)
    layer = SelfAttentionLayer(8, 2, 16).double()
    x = randn(3, 6, 8)
    expected = x + layer.project(by_hand(*layer.query_key_value(layer.attention_norm(x)).chunk(3, dim=-1), 2))
    expected = expected + layer.feedforward(layer.feedforward_norm(expected))
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_queries_shared_by_all_rows_stay_one_row_until_they_meet_the_potential():
    torch.manual_seed(0)
    queries, decoder = TimeQueries(TimeFeatures(3, 2.0), 2, 8).double(), CrossAttentionDecoder(2, 8, 2, 16).double()
    times, initial, memory = randn(1, 5).expand(4, -1), randn(1, 2, seed=1).expand(4, -1), randn(4, 7, 8, seed=2)
    shared = queries(times, initial)
    assert shared.shape == (1, 5, 8)
    assert queries(times, initial.clone()).shape == (4, 5, 8)
    repeated = decoder(queries(times.clone(), initial.clone()), memory)
    torch.testing.assert_close(decoder(shared, memory), repeated, atol=1e-12, rtol=0)


def test_time_queries_are_an_mlp_of_features_and_state_together():
    """The form in which the weights of saved models were trained."""
    torch.manual_seed(0)
    queries = TimeQueries(TimeFeatures(3, 2.0), 2, 8).double()
    times, initial = randn(4, 5), randn(4, 2, seed=1)
    inputs = torch.cat([TimeFeatures(3, 2.0)(times), initial.unsqueeze(1).expand(-1, 5, -1)], dim=-1)
    expected = queries[2](F.gelu(queries[0](inputs)))
    torch.testing.assert_close(queries(times, initial), expected, atol=1e-7, rtol=0)


def test_rows_are_shared_where_their_memory_is():
    row = torch.arange(3.0)
    assert distinct_rows(row.expand(4, -1)).shape == (1, 3)
    assert distinct_rows(row[None]).shape == (1, 3)
    assert distinct_rows(row.repeat(4, 1)).shape == (4, 3)  # equal numbers do not count: seeing them would cost a look


@pytest.mark.parametrize("width", [6, 7])
def test_positions_of_published_embeddings(width):
    embedding = IndexedEmbedding(width).double()
    torch.nn.init.zeros_(embedding.value.weight)
    torch.nn.init.zeros_(embedding.value.bias)
    answer = embedding(torch.zeros(1, 30, 1, dtype=torch.float64))[0]
    for index in (0, 1, 29):
        for channel in range(width):
            angle = index / 10_000 ** (2 * (channel // 2) / width)
            assert answer[index, channel].item() == pytest.approx(math.cos(angle) if channel % 2 else math.sin(angle), abs=1e-12)
    torch.nn.init.ones_(embedding.value.weight)
    assert (embedding(torch.ones(1, 30, 1, dtype=torch.float64))[0] - answer)[3, 2].item() == pytest.approx(math.sqrt(width))


def test_sensor_embedding_tells_equal_values_apart_by_place():
    embedding = SensorEmbedding(TASK, 4, 8)
    answer = embedding(torch.ones(2, 12, 1))
    assert torch.equal(answer[0], answer[1])
    assert torch.cdist(answer[0], answer[0]).fill_diagonal_(1.0).min() > 1e-3


@given(sensors=st.integers(4, 40), padding=st.integers(0, 10), modes=st.integers(1, 40))
def test_spectral_convolution_is_that_of_the_fast_transform(sensors, padding, modes):
    torch.manual_seed(0)
    layer = SpectralConvolution(3, (sensors,), (sensors + padding,), modes)
    with torch.no_grad():
        layer.weight.normal_()
    x = randn(2, sensors, 3).float()
    transformed = torch.fft.rfft(x, n=sensors + padding, dim=1)
    kept = layer.weight.shape[1]
    assert kept == min(modes, transformed.shape[1])
    mixed = torch.zeros_like(transformed)
    mixed[:, :kept] = torch.einsum("bki,kio->bko", transformed[:, :kept], torch.complex(layer.weight[0], layer.weight[1]))
    expected = torch.fft.irfft(mixed, n=sensors + padding, dim=1)[:, :sensors]
    torch.testing.assert_close(layer(x), expected, atol=2e-5, rtol=1e-5)


@given(
    sensors=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    modes=st.integers(1, 60),
)
def test_spectral_convolution_of_two_axes_is_that_of_the_fast_transform(sensors, padding, modes):
    """Weights of kept modes, their conjugates at the opposite ones, and zeros elsewhere."""
    torch.manual_seed(0)
    periods = (sensors[0] + padding[0], sensors[1] + padding[1])
    layer = SpectralConvolution(2, sensors, periods, modes)
    with torch.no_grad():
        layer.weight.normal_()
    x = randn(3, *sensors, 2)
    transformed = torch.fft.fft2(x, s=periods, dim=(1, 2))
    spectrum = torch.zeros_like(transformed)
    kept = lowest_modes(periods, modes)
    assert len(kept) == min(modes, len(lowest_modes(periods, 10_000)))
    for k, (i, j) in enumerate(kept.tolist()):
        matrix = torch.complex(layer.weight[0, k], layer.weight[1, k]).to(transformed.dtype)
        spectrum[:, i, j] += transformed[:, i, j] @ matrix
        if (2 * i % periods[0], 2 * j % periods[1]) != (0, 0):
            spectrum[:, -i, -j] += transformed[:, -i, -j] @ matrix.conj()
    expected = torch.fft.ifft2(spectrum, dim=(1, 2)).real[:, : sensors[0], : sensors[1]]
    answer = layer(x.flatten(1, 2).float()).double()
    torch.testing.assert_close(answer, expected.flatten(1, 2), atol=2e-5, rtol=1e-4)


def test_the_modes_of_a_grid_are_those_of_a_real_function():
    """As many as there are free numbers: a mode and its opposite share theirs, and those that are their own have one."""
    for periods in ((5,), (6,), (4, 4), (5, 6), (7, 5)):
        modes = lowest_modes(periods, 10_000)
        own = (2 * modes % torch.tensor(periods) == 0).all(dim=1)
        assert 2 * len(modes) - int(own.sum()) == math.prod(periods)


def test_fourier_layer_of_a_whole_period_commutes_with_shifts():
    layer, x = FourierLayer(3, (12,), (12,), 5), randn(2, 12, 3).float()
    torch.testing.assert_close(layer(x.roll(4, dims=1)), layer(x).roll(4, dims=1), atol=1e-6, rtol=0)


def test_mamba_layers_read_from_the_left_as_published_and_both_ways_by_default():
    for preset, sees_right in (("published", False), ("default", True)):
        sizes = {"d_model": 8, "num_heads": 2, "num_mamba_layers": 2, "d_state": 2}
        torch.manual_seed(0)
        model = build_operator(parse_architecture({"name": "mambonet", "preset": preset} | sizes), TASK)
        assert all(isinstance(layer, MambaLayer) for layer in model.encoder)
        potential = randn(1, 12).float()
        changed = potential.clone()
        changed[0, 9] += 1.0
        difference = (model.encode(potential) - model.encode(changed)).abs().amax(dim=-1)[0]
        assert bool((difference[:9] > 0).any()) is sees_right
        assert (difference[9:] > 0).all()


def test_from_the_initial_state_zero_a_published_preset_is_the_published_network():
    """What reads (q0, p0) is linear and without bias, so from (0, 0) the networks are the published ones."""
    sizes = {"d_model": 8, "num_heads": 2, "hidden_size": 4, "d_feedforward": 8}
    for name, weight in (
        ("deeponet", "branch.0.weight"),
        ("fno", "embed_query.initial.weight"),
        ("mambonet", "embed_query.initial.weight"),
        ("traonet", "embed_query.initial.weight"),
        ("varonet", "decoder.0.lstm.weight_ih_l0"),
    ):
        config = parse_architecture({"name": name, "preset": "published"})
        own = {key: value for key, value in sizes.items() if key in config.model_dump()}
        model = build_operator(parse_architecture({"name": name, "preset": "published"} | own), TASK).eval()
        potential, times = randn(2, 12).float(), torch.linspace(0, 2, 5)
        answers = [model(potential, times, initial).q for initial in (torch.zeros(2), torch.ones(2))]
        with torch.no_grad():
            model.get_parameter(weight)[:, -2:] += 1.0
        again = [model(potential, times, initial).q for initial in (torch.zeros(2), torch.ones(2))]
        assert torch.equal(again[0], answers[0])
        assert not torch.equal(again[1], answers[1])


class TestVaRONet:
    """The auxiliary loss against the closed form of torch.distributions, and the draw against its moments."""

    @pytest.mark.parametrize("preset", ["default", "published"])
    def test_auxiliary_loss_is_the_weighted_mean_divergence(self, preset):
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_encoder_layers": 1, "num_decoder_layers": 1, "latent_size": 5}
        model = build_operator(parse_architecture({"name": "varonet", "preset": preset} | sizes), TASK).double().train()
        seen = []
        for linear in model.posterior:
            torch.nn.init.normal_(linear.bias)
            linear.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        loss = model(randn(3, 12), torch.linspace(0, 2, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)).auxiliary_loss
        mean, log_variance = seen
        drawn = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        expected = model.config.kl_weight * torch.distributions.kl_divergence(drawn, standard).mean()
        torch.testing.assert_close(loss, expected, atol=0, rtol=1e-10)

    def test_a_draw_has_the_mean_and_spread_it_says(self):
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_encoder_layers": 1, "latent_size": 3}
        model = build_operator(parse_architecture({"name": "varonet"} | sizes), TASK).double().train()
        states = randn(1, 16).expand(40_000, -1)
        with torch.no_grad():
            latent = model._draw(states)[0]
            mean, log_variance = (linear(states[:1])[0] for linear in model.posterior)
        deviation = (0.5 * log_variance).exp()
        assert ((latent.mean(dim=0) - mean).abs() < 5 * deviation / 200).all()
        assert ((latent.std(dim=0) / deviation - 1).abs() < 0.03).all()


def test_feed_forward_in_slices_is_the_same(monkeypatch):
    layer, x = FeedForward(8, 32), torch.randn(7, 5, 8)
    expected = layer(x).detach()  # with gradients, at once
    monkeypatch.setattr(layers, "_HIDDEN_AT_ONCE", 3 * 5 * 32)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
        assert layer(x[:, :0]).shape == (7, 0, 8)
        assert layer(x[:0]).shape == (0, 5, 8)


def test_a_scan_of_a_grid_passes_along_every_coordinate_both_ways():
    """Pairs of layers: rows to the right, rows to the left, columns down, columns up; each in its own order, then put back."""
    torch.manual_seed(0)
    stack, x = BidirectionalMamba(4, 8, 2, (3, 5)).double(), randn(2, 15, 8)
    expected = x
    for index, layer in enumerate(stack):
        grid = expected.unflatten(1, (3, 5))
        if index >= 2:
            grid = grid.transpose(1, 2)
        sequence = grid.flatten(1, 2)
        sequence = layer(sequence.flip(1)).flip(1) if index % 2 else layer(sequence)
        expected = (sequence.unflatten(1, (5, 3)).transpose(1, 2) if index >= 2 else sequence.unflatten(1, (3, 5))).flatten(1, 2)
    torch.testing.assert_close(stack(x), expected, atol=0, rtol=0)
    three, y = BidirectionalMamba(6, 8, 2, (2, 3, 4)).double(), randn(1, 24, 8)
    order = torch.arange(24).reshape(2, 3, 4)
    by_hand_y = y
    for index, layer in enumerate(three):
        axes = [(0, 1, 2), (2, 0, 1), (1, 2, 0)][index // 2]
        places = order.permute(axes).flatten()
        places = places.flip(0) if index % 2 else places
        scanned = torch.empty_like(by_hand_y)
        scanned[:, places] = layer(by_hand_y[:, places])
        by_hand_y = scanned
    torch.testing.assert_close(three(y), by_hand_y, atol=0, rtol=0)


def test_time_features_are_scaled_to_the_horizon():
    times = torch.linspace(0, 1, 7)[None].double()
    torch.testing.assert_close(TimeFeatures(5, 6.0).double()(6 * times), TimeFeatures(5, 2.0).double()(2 * times), atol=1e-6, rtol=0)


class TestTask:
    def test_fields_become_a_sequence_with_the_last_coordinate_running_fastest(self):
        task = Task(sensors=(4, 5), domain=((0.0, 1.0), (-1.0, 1.0)), horizon=1.0, channels=2)
        fields = torch.arange(40.0).reshape(1, 2, 4, 5)
        sequence = task.as_sequence(fields)
        assert sequence.shape == (1, 20, 2) and torch.equal(sequence[0, 1], torch.tensor([fields[0, 0, 0, 1], fields[0, 1, 0, 1]]))
        assert task.sensor_positions(-1.0, 1.0).tolist()[:3] == [[-1, -1], [-1, -0.5], [-1, 0]]

    @pytest.mark.parametrize(("sensors", "channels"), [((12,), 1), ((8, 12), 3)])
    def test_patches_are_what_a_strided_window_sees(self, sensors, channels):
        task = Task(sensors=sensors, domain=((0.0, 1.0),) * len(sensors), horizon=1.0, channels=channels)
        fields, patches = torch.rand(3, *task.field_shape), task.in_patches(2)
        cut = task.cut_into_patches(fields, 2)
        assert cut.shape == (3, *patches.field_shape) and patches.channels == channels * 2 ** len(sensors)
        images = fields.reshape(3, channels, *(sensors if len(sensors) == 2 else (1, *sensors)))
        window = (2, 2) if len(sensors) == 2 else (1, 2)
        by_unfold = torch.nn.functional.unfold(images, window, stride=window)
        assert torch.equal(patches.as_sequence(cut), by_unfold.transpose(1, 2))
        assert task.in_patches(1) == task and task.cut_into_patches(fields, 1) is fields

    @pytest.mark.parametrize(
        ("size", "sentence"),
        [(5, "must divide the sensors along each coordinate, 8 and 12"), (4, "leaves 2 patches along a coordinate; give at most 2")],
    )
    def test_patches_that_do_not_fit_are_refused(self, size, sentence):
        with pytest.raises(InputError, match=sentence):
            Task(sensors=(8, 12) if size == 5 else (8, 8), domain=((0.0, 1.0),) * 2, horizon=1.0).in_patches(size)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"sensors": (3,)}, r"sensors is \(3,\).*at least 4"),
            ({"sensors": (8, 8)}, r"sensors is \(8, 8\); give one number for each of the 1 coordinates"),
            ({"domain": ((1.0, 1.0),)}, "domain is .*left < right"),
            ({"horizon": 0.0}, "horizon is 0.0; it must be positive"),
            ({"channels": 0}, "channels is 0"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, changes, sentence):
        with pytest.raises(InputError, match=sentence):
            Task(**{"sensors": (8,), "domain": ((0.0, 1.0),), "horizon": 2.0} | changes)


class TestLocalFields:
    TASK = Task(sensors=(9, 12), domain=((0.0, 2.0), (-1.0, 1.0)), horizon=1.0, channels=2)

    def fields(self, function):
        x, y = (torch.linspace(*ends, count, dtype=torch.float64) for ends, count in zip(self.TASK.domain, self.TASK.sensors, strict=True))
        return function(*torch.meshgrid(x, y, indexing="ij")).unsqueeze(0)

    @staticmethod
    def quadratics(x, y):
        return torch.stack([x**2 + x * y - 3 * y, x**2 * y**2])

    def test_quadratics_are_exact_inside(self):
        local = LocalFields(self.TASK, 3).double()
        q = torch.tensor([[[0.6, -0.3], [1.3, 0.51], [1.0, 0.0]]], dtype=torch.float64)
        seen = local(local.continue_fields(self.fields(self.quadratics)), q).unflatten(2, (2, 3, 3))
        for i, j in itertools.product(range(3), repeat=2):
            expected = self.quadratics(q[0, :, 0] + (i - 1) * 0.25, q[0, :, 1] + (j - 1) * 2 / 11)
            torch.testing.assert_close(seen[0, :, :, i, j].T, expected)

    def test_a_field_goes_on_oddly_beyond_its_boundary(self):
        local = LocalFields(self.TASK, 5).double()
        continued = local.continue_fields(self.fields(lambda x, y: torch.stack([2 * x + y, 5 + y])))
        expected = self.fields(lambda x, y: torch.stack([2 * x + y, 5 + y]))
        torch.testing.assert_close(continued[:, :, 3:-3, 3:-3], expected)
        corner = local(continued, torch.tensor([[[0.0, -1.0]]], dtype=torch.float64)).unflatten(2, (2, 5, 5))
        torch.testing.assert_close(corner[0, 0, 0, 0, 0], torch.tensor(2 * -0.5 + -1 - 4 / 11, dtype=torch.float64))

    def test_it_is_differentiable_in_the_place_across_the_cells(self):
        local = LocalFields(self.TASK, 3).double()
        continued = local.continue_fields(torch.rand(1, 2, 9, 12, dtype=torch.float64))
        edge = torch.tensor([0.75, 0.1], dtype=torch.float64)  # on a sensor of the first axis

        def slope(offset):
            q = (edge + torch.tensor([offset, 0.0])).view(1, 1, 2).requires_grad_()
            return torch.autograd.grad(local(continued, q)[0, 0, 4], q)[0]

        torch.testing.assert_close(slope(-1e-9), slope(1e-9), atol=1e-6, rtol=0)
        q = (edge + 0.03).view(1, 1, 2).requires_grad_()
        assert torch.autograd.gradcheck(lambda q: local(continued, q), q)

    def test_places_that_are_not_numbers_stay_so(self):
        local = LocalFields(self.TASK, 3).double()
        continued = local.continue_fields(torch.rand(1, 2, 9, 12, dtype=torch.float64))
        assert local(continued, torch.full((1, 1, 2), math.nan, dtype=torch.float64)).isnan().all()
