"""Every architecture against the same idea written plainly in torch.nn: same widths, depths, heads, batch and optimiser.

The peers are what one writes first: `nn.TransformerEncoder`, `nn.TransformerDecoder` (whose queries see each other; ours
do not, and a good part of the difference is that), `torch.fft`, mambapy's blocks, everything computed for every row.
They compute alike, not the same numbers.
"""

from itertools import pairwise
from typing import Any

import torch
from mambapy.mamba import Mamba, MambaConfig
from torch import Tensor, nn

from neural_hamilton.architectures import DirectConfig, DirectOperator, Task, build_operator, parse_architecture

from .timing import compare, time_in_turns

_BATCH, _SENSORS, _TIMES = 100, 100, 100
_TASK = Task(sensors=(_SENSORS,), domain=((0.0, 1.0),), horizon=2.0)
_BATCHES = {"mambonet": 10}  # mambapy's scan takes ten seconds a step for a hundred rows
_ROUNDS = 4
_SINGLE_ROUNDS = 40
_THREADS = 1  # a second thread measures the neighbours on a busy machine


def measure() -> dict[str, Any]:
    """Training steps at batch 100, and forward passes of one trajectory, on the CPU (on a GPU: `python -m benchmarks.gpu`)."""
    torch.set_num_threads(_THREADS)
    torch.manual_seed(0)
    ours = {name: build_operator(parse_architecture({"name": name}), _TASK) for name in _PEERS}
    peers = {name: _Plain(model.config, _PEERS[name](model.config)) for name, model in ours.items()}
    comparisons = []
    for name in ours:  # one at a time: a small network's step after a large one's would pay for its memory
        mine, plain = ours[name], peers[name]
        comparisons += _compare("forward of one trajectory", name, _SINGLE_ROUNDS, _forward, mine, plain, _batch(1))
        comparisons += _compare("training step", name, _ROUNDS, _training_step, mine, plain, _batch(_BATCHES.get(name, _BATCH)))
    return {
        "what": f"Default presets against plain torch.nn, batch {_BATCH} (MambONet 10) or 1, {_SENSORS} sensors, {_TIMES} times, float32",
        "comparisons": comparisons,
        "parameters": {name: [_count(ours[name]), _count(peers[name])] for name in ours},
        "device": f"CPU, {torch.get_num_threads()} thread",
    }


def _compare(work: str, name: str, rounds: int, make: Any, mine: nn.Module, plain: nn.Module, batch: tuple[Tensor, ...]) -> list[Any]:
    """Ours against the plain one, with times row by row and, still against all rows of the plain one, given once."""
    potential, times, initial = batch
    contestants = {
        f"{work}, {name}": make(mine, batch),
        f"{work}, plain {name}": make(plain, batch),
        f"{work}, {name} with times given once": make(mine, (potential, times[0], initial)),
    }
    seconds = time_in_turns(contestants, rounds)
    row_by_row, theirs, once = contestants
    return [compare(seconds, row_by_row, theirs), *([compare(seconds, once, theirs)] if len(potential) > 1 else [])]


def _batch(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(rows, _SENSORS), torch.linspace(0, 2, _TIMES).repeat(rows, 1), torch.zeros(rows, 2)


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _training_step(network: nn.Module, batch: tuple[Tensor, ...]) -> Any:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        network.train()
        q, p, _ = network(*batch)
        optimizer.zero_grad(set_to_none=True)
        (q.square().mean() + p.square().mean()).backward()
        optimizer.step()

    return step


def _forward(network: nn.Module, batch: tuple[Tensor, ...]) -> Any:
    def forward() -> None:
        network.eval()
        with torch.inference_mode():
            network(*batch)

    return forward


class _Plain(DirectOperator):
    """A peer in the place of one of ours: V is normalised and the initial state imposed for both alike."""

    def __init__(self, config: DirectConfig, network: nn.Module) -> None:
        super().__init__(config, _TASK)
        self.network = network

    def read(self, patches: Tensor, initial_BK: Tensor) -> tuple[Any, Tensor]:
        return patches, patches.new_zeros(())

    def free_part(self, memory: Any, times_BT: Tensor, initial: Tensor, near: Tensor | None) -> Tensor:
        return self.network(memory, times_BT, initial)


def _perceptron(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _features(times: Tensor, num_frequencies: int) -> Tensor:
    phase = times.unsqueeze(-1) * (torch.pi / 4 * torch.arange(1, num_frequencies + 1, device=times.device))
    return torch.cat([times.unsqueeze(-1), phase.sin(), phase.cos()], dim=-1)


class _PlainDeepONet(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden = [config.width] * config.num_layers
        self.num_frequencies = config.num_frequencies
        self.branch = _perceptron([_SENSORS + 2, *hidden, 2 * config.num_channels])
        self.trunk = _perceptron([1 + 2 * config.num_frequencies, *hidden, 2 * config.num_channels])

    def forward(self, potential: Tensor, times: Tensor, initial: Tensor) -> Tensor:
        branch = self.branch(torch.cat([potential, initial], dim=-1)).unflatten(-1, (2, -1))
        trunk = self.trunk(_features(times, self.num_frequencies)).unflatten(-1, (2, -1))
        return torch.einsum("bok,btok->bto", branch, trunk)


class _PlainVaRONet(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        states, width, depth = 2 * config.num_encoder_layers * config.hidden_size, 2 * config.hidden_size, config.num_decoder_layers
        self.num_frequencies = config.num_frequencies
        self.encoder = nn.LSTM(1, config.hidden_size, config.num_encoder_layers, batch_first=True, bidirectional=True)
        self.mean, self.log_variance = nn.Linear(states, config.latent_size), nn.Linear(states, config.latent_size)
        self.embed_time = nn.Linear(1 + 2 * config.num_frequencies, width)
        self.modulation = _perceptron([config.latent_size + 2, width, 2 * depth * width])
        self.layers = nn.ModuleList(_perceptron([width, width, width]) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2)

    def forward(self, potential: Tensor, times: Tensor, initial: Tensor) -> Tensor:
        states = self.encoder(potential.unsqueeze(-1))[1][0].transpose(0, 1).flatten(1)
        latent = self.mean(states)
        if self.training:
            latent = latent + torch.randn_like(latent) * (0.5 * self.log_variance(states)).exp()
        modulations = self.modulation(torch.cat([latent, initial], dim=-1)).unsqueeze(1).chunk(2 * len(self.layers), dim=-1)
        x = self.embed_time(_features(times, self.num_frequencies))
        for index, layer in enumerate(self.layers):
            normed = nn.functional.layer_norm(x, x.shape[-1:])
            x = x + layer(normed * (1 + modulations[2 * index]) + modulations[2 * index + 1])
        return self.head(self.norm(x))


class _PlainSequenceNetwork(nn.Module):
    """An encoder of (B, S, M), torch's own decoder, and a head."""

    def __init__(self, config: Any, encoder: nn.Module) -> None:
        super().__init__()
        width = config.d_model
        layer = nn.TransformerDecoderLayer(width, config.num_heads, config.d_feedforward, 0.0, "gelu", batch_first=True, norm_first=True)
        self.embed_sensor, self.embed_query = nn.Linear(2, width), nn.Linear(3, width)
        self.encoder = encoder
        self.decoder = nn.TransformerDecoder(layer, config.num_decoder_layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, 2)

    def forward(self, potential: Tensor, times: Tensor, initial: Tensor) -> Tensor:
        sensors = torch.linspace(-1, 1, potential.shape[1], device=potential.device).expand_as(potential)
        memory = self.encoder(self.embed_sensor(torch.stack([potential, sensors], dim=-1)))
        states = initial.unsqueeze(1).expand(-1, times.shape[1], -1)
        return self.head(self.decoder(self.embed_query(torch.cat([times.unsqueeze(-1), states], dim=-1)), memory))


class _PlainFourierLayer(nn.Module):
    def __init__(self, width: int, num_modes: int, padding: int) -> None:
        super().__init__()
        self.num_modes, self.padding = num_modes, padding
        self.weight = nn.Parameter(torch.randn(width, width, num_modes, dtype=torch.cfloat) / width**2)
        self.pointwise = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        length = x.shape[-1] + self.padding
        modes = torch.fft.rfft(x, n=length)
        mixed = torch.zeros_like(modes)
        mixed[..., : self.num_modes] = torch.einsum("bik,iok->bok", modes[..., : self.num_modes], self.weight)
        spectral = torch.fft.irfft(mixed, n=length)[..., : x.shape[-1]]
        return nn.functional.gelu(spectral + self.pointwise(x)).transpose(1, 2)


def _plain_fno(config: Any) -> nn.Module:
    padding = round(_SENSORS * config.padding)
    layers = [_PlainFourierLayer(config.d_model, config.num_modes, padding) for _ in range(config.num_fourier_layers)]
    return _PlainSequenceNetwork(config, nn.Sequential(*layers, nn.LayerNorm(config.d_model)))


def _plain_mambonet(config: Any) -> nn.Module:
    return _PlainSequenceNetwork(config, Mamba(MambaConfig(config.d_model, config.num_mamba_layers, d_state=config.d_state)))


def _plain_traonet(config: Any) -> nn.Module:
    width = config.d_model
    layer = nn.TransformerEncoderLayer(width, config.num_heads, config.d_feedforward, 0.0, "gelu", batch_first=True, norm_first=True)
    norm = nn.LayerNorm(width)
    return _PlainSequenceNetwork(config, nn.TransformerEncoder(layer, config.num_encoder_layers, norm, enable_nested_tensor=False))


_PEERS: dict[str, Any] = {
    "deeponet": _PlainDeepONet,
    "fno": _plain_fno,
    "mambonet": _plain_mambonet,
    "traonet": _plain_traonet,
    "varonet": _PlainVaRONet,
}
