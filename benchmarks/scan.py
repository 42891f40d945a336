"""MambONet with our Mamba block and with mambapy's in its place: same weights, same batch, same everything else.

On the CPU our scan is the backend `cpu`; mambapy's is its default, a parallel scan in PyTorch that pads the sequence to
a power of two. Where a GPU is at hand, every backend that runs there is timed too; `python -m benchmarks.scan --device
cuda` does only that, and needs neither Ray nor mambapy.
"""

import argparse
import copy
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from neural_hamilton.architectures.mambonet import MambONet, MambONetConfig
from neural_hamilton.architectures.selective_scan import BACKENDS, use_backend, why_not

from .timing import compare, format_comparisons, time_in_turns, write_result

_CONFIG = MambONetConfig(
    orbit="none", d_model=64, num_mamba_layers=4, num_heads=8, num_decoder_layers=3, d_feedforward=512, num_sensors=100
)
_TIMES = 100
_THREADS = 2
_BATCH = 100
_ROUNDS, _FORWARD_CALLS, _SINGLE_ROUNDS, _SINGLE_CALLS, _CUDA_ROUNDS = 5, 5, 10, 20, 10
_CUDA_BATCHES = {"training step": (100, 1_024), "forward": (1, 1_024, 16_384)}

Batch = tuple[Tensor, Tensor, Tensor]


def measure() -> dict[str, Any]:
    """The table of the CPU, and under `cuda` that of the GPU if there is one."""
    return measure_cpu() | ({"cuda": measure_cuda()} if torch.cuda.is_available() else {})


def measure_cpu() -> dict[str, Any]:
    """Training step and forward pass of a batch, forward pass of one trajectory; ours, mambapy's, and no Mamba block at all."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        networks = _networks("cpu")
        batch = _batch(_BATCH, "cpu")
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
    single = _batch(1, "cpu")
    works = {f"one trajectory, {name}": _forward(network, single) for name, network in _networks("cpu").items()}
    return time_in_turns(works, _SINGLE_ROUNDS, dict.fromkeys(works, _SINGLE_CALLS))


def measure_cuda() -> dict[str, Any]:
    """Seconds of every backend that runs on this GPU, and of mambapy's block if it is installed; float32 without TF32."""
    device = "cuda"
    reasons = {name: why_not(name, device, torch.float32) for name in BACKENDS}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    if find_spec("mambapy") is None:
        skipped["mambapy"] = "the package mambapy is not installed"
    networks = _networks(device)
    contestants: dict[str, tuple[nn.Module, str | None]] = {name: (networks["ours"], name) for name in BACKENDS if name not in skipped}
    if "mambapy" in networks:
        contestants["mambapy"] = (networks["mambapy"], None)
    contestants["no Mamba blocks"] = (networks["none"], None)
    table: dict[str, dict[str, Any]] = {}
    comparisons = []
    for work, batches in _CUDA_BATCHES.items():
        for size in batches:
            batch = _batch(size, device)
            prepare = _training_step if work == "training step" else _forward
            runs = {name: _on_cuda(prepare(network, batch), backend) for name, (network, backend) in contestants.items()}
            row = f"{work}, batch {size}"
            fits = {name: run for name, run in runs.items() if _fits(run)}
            seconds = time_in_turns(fits, _CUDA_ROUNDS)
            table[row] = {name: min(seconds[name]) if name in seconds else "out of memory" for name in runs}
            ours = next(name for name in contestants if name in seconds)
            named = {f"{row}, {name}": values for name, values in seconds.items()}
            comparisons += [compare(named, f"{row}, {ours}", f"{row}, {name}") for name in ("mambapy", "reference") if name in seconds]
    answers = {name: _answers(network, _batch(_BATCH, device), backend) for name, (network, backend) in contestants.items()}
    return {
        "what": f"MambONet, {_describe_network()}, float32 on {torch.cuda.get_device_name()}",
        "comparisons": comparisons,
        "best_seconds": table,
        "largest_difference_from_reference": {
            name: float((value - answers["reference"]).abs().max()) for name, value in answers.items() if name != "no Mamba blocks"
        },
        "skipped": skipped,
        "device": torch.cuda.get_device_name(),
        "packages": {name: _version(name) for name in ("torch", "triton", "mamba-ssm", "mambapy")},
    }


def _networks(device: str) -> dict[str, MambONet]:
    """Ours; mambapy's block with the same weights, if it is installed; and no block, to see what the rest of the network takes."""
    torch.manual_seed(0)
    ours = MambONet(_CONFIG).to(device)
    networks = {"ours": ours, "none": _with_blocks(ours, lambda _: nn.Identity())}
    if find_spec("mambapy") is not None:
        networks["mambapy"] = _with_blocks(ours, _mambapy)
    return networks


def _with_blocks(network: MambONet, replace: Callable[[nn.Module], nn.Module]) -> MambONet:
    changed = copy.deepcopy(network)
    for layer in changed.encoder:
        layer.mixer = replace(layer.mixer)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return changed


def _mambapy(ours: nn.Module) -> nn.Module:
    from mambapy.mamba import MambaBlock, MambaConfig

    block = MambaBlock(MambaConfig(d_model=_CONFIG.d_model, n_layers=1, d_state=_CONFIG.d_state))
    block.load_state_dict(ours.state_dict())
    return block.to(next(ours.parameters()).device)


def _batch(size: int, device: str) -> Batch:
    rng = torch.Generator().manual_seed(1)
    potential = torch.randn(size, _CONFIG.num_sensors, generator=rng)
    return potential.to(device), torch.linspace(0, 2, _TIMES, device=device).repeat(size, 1), torch.zeros(size, 2, device=device)


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


def _on_cuda(work: Callable[[], None], backend: str | None) -> Callable[[], None]:
    def run() -> None:
        with use_backend(backend):
            work()
        torch.cuda.synchronize()

    return run


def _fits(run: Callable[[], None]) -> bool:
    try:
        run()
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _answers(network: nn.Module, batch: Batch, backend: str | None) -> Tensor:
    with torch.inference_mode(), use_backend(backend):
        return torch.stack(network(*batch)[:2])


def _largest_difference(ours: nn.Module, theirs: nn.Module, batch: Batch) -> float:
    difference = float((_answers(ours, batch, None) - _answers(theirs, batch, None)).abs().max())
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
        f"{c.num_heads} heads, d_ff {c.d_feedforward}, {c.num_sensors} sensors, {_TIMES} times"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args().device
    if chosen == "cuda" and not torch.cuda.is_available():
        parser.error("--device is 'cuda' and PyTorch sees no GPU here; give cpu")
    result = measure_cuda() if chosen == "cuda" else measure_cpu()
    path = write_result("scan_cuda" if chosen == "cuda" else "scan", result)
    print(f"{result['what']}\n{format_comparisons(result['comparisons'])}\n{json.dumps(result.get('best_seconds', {}), indent=2)}\n{path}")
