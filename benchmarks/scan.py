"""MambONet with our Mamba block and with mambapy's in its place: same weights, same batch, same everything else.

On the CPU our scan is the backend `cpu`; mambapy's is its default, a parallel scan in PyTorch that pads the sequence to
a power of two. What the kernels do on a GPU, `python -m benchmarks.gpu` measures.
"""

import copy
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from mambapy.mamba import MambaBlock, MambaConfig
from torch import Tensor, nn

from neural_hamilton.architectures import Task
from neural_hamilton.architectures.mambonet import MambONet, MambONetConfig

from .timing import compare, time_in_turns

_CONFIG = MambONetConfig(d_model=64, num_mamba_layers=4, num_heads=8, num_decoder_layers=3, d_feedforward=512)
_SENSORS, _TIMES = 100, 100
_TASK = Task(sensors=(_SENSORS,), domain=((0.0, 1.0),), horizon=2.0)
_THREADS = 2
_BATCH = 100
_ROUNDS, _FORWARD_CALLS, _SINGLE_ROUNDS, _SINGLE_CALLS = 5, 5, 10, 20

Batch = tuple[Tensor, Tensor, Tensor]


def measure() -> dict[str, Any]:
    """Training step and forward pass of a batch, forward pass of one trajectory; ours, mambapy's, and no Mamba block at all."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        networks = _networks()
        batch = _batch(_BATCH)
        difference = _largest_difference(networks["ours"], networks["mambapy"], batch)
        seconds = time_in_turns({f"training step, {name}": _training_step(network, batch) for name, network in networks.items()}, _ROUNDS)
        forwards = {f"forward, {name}": _forward(network, batch) for name, network in networks.items()}
        seconds |= time_in_turns(forwards, _ROUNDS, dict.fromkeys(forwards, _FORWARD_CALLS))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            seconds |= fresh.submit(_time_single).result()
        works = ("training step", "forward", "one trajectory")
        return {
            "what": f"MambONet, {_describe_network()}, float32 on the CPU, {_THREADS} threads; batch {_BATCH} or one trajectory",
            "comparisons": [compare(seconds, f"{work}, ours", f"{work}, mambapy") for work in works],
            "milliseconds_without_mamba_blocks": {work: 1e3 * min(seconds[f"{work}, none"]) for work in works},
            "bytes_kept_for_the_backward_pass": {
                name: {str(length): _bytes_kept(networks[name], length) for length in (100, 200, 400)} for name in ("ours", "mambapy")
            },
            "largest_difference_of_answers": difference,
            "threads": _THREADS,
        }
    finally:
        torch.set_num_threads(threads_before)


def _time_single() -> dict[str, list[float]]:
    """One trajectory at a time, in a process that has done nothing else, as `predict` and a quiet server are.

    After large batches mambapy's block is about twice as fast: the C library then keeps the memory that it asks for anew.
    """
    torch.set_num_threads(_THREADS)
    single = _batch(1)
    works = {f"one trajectory, {name}": _forward(network, single) for name, network in _networks().items()}
    return time_in_turns(works, _SINGLE_ROUNDS, dict.fromkeys(works, _SINGLE_CALLS))


def _networks() -> dict[str, MambONet]:
    """Ours; mambapy's block with the same weights; and no block, to see what the rest of the network takes."""
    torch.manual_seed(0)
    ours = MambONet(_CONFIG, _TASK)
    return {"ours": ours, "mambapy": _with_blocks(ours, _mambapy), "none": _with_blocks(ours, lambda _: nn.Identity())}


def _with_blocks(network: MambONet, replace: Callable[[nn.Module], nn.Module]) -> MambONet:
    changed = copy.deepcopy(network)
    for layer in changed.encoder:
        layer.mixer = replace(layer.mixer)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return changed


def _mambapy(ours: nn.Module) -> nn.Module:
    block = MambaBlock(MambaConfig(d_model=_CONFIG.d_model, n_layers=1, d_state=_CONFIG.d_state))
    block.load_state_dict(ours.state_dict())
    return block


def _batch(size: int) -> Batch:
    potential = torch.randn(size, _SENSORS, generator=torch.Generator().manual_seed(1))
    return potential, torch.linspace(0, 2, _TIMES).repeat(size, 1), torch.zeros(size, 2)


def _training_step(network: nn.Module, batch: Batch) -> Callable[[], None]:
    network = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        output = network(*batch)
        optimizer.zero_grad(set_to_none=True)
        (output.q.square().mean() + output.p.square().mean()).backward()
        optimizer.step()

    return step


def _forward(network: nn.Module, batch: Batch) -> Callable[[], None]:
    network = copy.deepcopy(network).eval()

    def forward() -> None:
        with torch.inference_mode():
            network(*batch)

    return forward


def _answers(network: nn.Module, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return torch.stack(network(*batch)[:2])


def _largest_difference(ours: nn.Module, theirs: nn.Module, batch: Batch) -> float:
    difference = float((_answers(ours, batch) - _answers(theirs, batch)).abs().max())
    assert difference < 1e-4, f"the two networks differ by {difference:.1e}"
    return difference


def _bytes_kept(network: MambONet, length: int) -> int:
    """What autograd keeps of a batch of 8 for the backward pass of one Mamba block, its parameters apart."""
    block = network.encoder[0].mixer
    own = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = block(torch.randn(8, length, _CONFIG.d_model))  # kept alive, so that no address is used twice
    del output
    return sum(kept.values())


def _describe_network() -> str:
    c = _CONFIG
    return (
        f"width {c.d_model}, {c.num_mamba_layers} Mamba and {c.num_decoder_layers} decoder layers, "
        f"{c.num_heads} heads, d_ff {c.d_feedforward}, {_SENSORS} sensors, {_TIMES} times"
    )
