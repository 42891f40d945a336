"""The selective scan alone: the fused kernel beside the plain loop and an associative scan, against the card's bandwidth.

Shapes: B batch, L sequence, D channels, N states.
"""

import itertools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from neural_hamilton.architectures.selective_scan import selective_scan, why_not

from . import clock
from .bench import Bench, Cell, Skipped
from .work import ScanWork

STATES = 16
LENGTHS, BATCHES, WIDTHS = (1024, 100), (1024, 100, 4096), (128, 256, 512)
TILES, CHUNKS = (128, 256, 512, 1024), (8, 16, 32)
TUNED = "triton, tuned"
CONTESTANTS = ("triton", "mamba_ssm", "associative", "reference")


def cells(bench: Bench) -> Iterator[Cell]:
    sizes = [
        ScanWork(batch, length, channels, STATES, backward)
        for length in bench.size(LENGTHS, (5,))
        for channels in bench.size(WIDTHS, (4,))
        for batch in bench.size(BATCHES, (2,))
        for backward in (False, True)
    ]
    for contestant in CONTESTANTS:  # ours in every size before any peer
        for work in sizes:
            yield Cell(_label(contestant, work), _timing(bench, contestant, work))
        if contestant == "triton":
            for tile, chunk in itertools.product(bench.size(TILES, (64,)), bench.size(CHUNKS, (2,))):
                for work in sizes[:2]:
                    yield Cell({"tile": tile, "chunk": chunk} | _label(TUNED, work), _tuned(bench, work, tile, chunk))


def _label(contestant: str, work: ScanWork) -> dict[str, Any]:
    direction = "forward and backward" if work.backward else "forward"
    return {"scan": contestant, "batch": work.batch, "length": work.length, "width": work.channels, "direction": direction}


def _timing(bench: Bench, contestant: str, work: ScanWork) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        scan = _contestant(contestant, bench)
        elements = work.batch * work.length * work.channels * work.states
        if contestant in ("associative", "reference") and 4 * elements > _memory_bytes(bench) / 4:
            raise Skipped("it keeps every state several times: more than the memory here")
        seconds = clock.median_seconds(_work(scan, work, bench.device), bench.device)
        return {"seconds": seconds, "bytes_per_second": work.bytes / seconds}

    return measure


def _tuned(bench: Bench, work: ScanWork, tile: int, chunk: int) -> Callable[[], dict[str, Any]]:
    """With other sizes than the kernels have: `tile` states in a program, `chunk` steps between kept states."""

    def measure() -> dict[str, Any]:
        if reason := why_not("triton", bench.device, torch.float32):
            raise Skipped(reason)
        from neural_hamilton.architectures.selective_scan import triton_backend

        with patch.multiple(triton_backend, _MAX_TILE=tile, _CHUNK=chunk):
            return {"seconds": _timing(bench, "triton", work)()["seconds"]}

    return measure


def _memory_bytes(bench: Bench) -> float:
    return torch.cuda.get_device_properties(bench.device).total_memory if bench.device.type == "cuda" else float("inf")


def _work(scan: Callable[..., Tensor], work: ScanWork, device: torch.device) -> Callable[[], Any]:
    tensors = inputs((work.batch, work.length, work.channels, work.states), device)
    if not work.backward:
        return lambda: _without_gradients(scan, tensors)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    dy_BLD = torch.randn_like(tensors[0])
    return lambda: torch.autograd.grad(scan(*leaves), leaves, dy_BLD)


@torch.no_grad()
def _without_gradients(scan: Callable[..., Tensor], tensors: list[Tensor]) -> Tensor:
    return scan(*tensors)


def inputs(shape: tuple[int, int, int, int], device: torch.device, rng: torch.Generator | None = None) -> list[Tensor]:
    """x, delta (before softplus), A, B, C, D and the gate, fresh, of a shape (B, L, D, N)."""
    batch, length, channels, states = shape
    sequence, selected = (batch, length, channels), (batch, length, states)
    sizes = (sequence, sequence, (channels, states), selected, selected, (channels,), sequence)
    x, delta, a, b, c, skip, gate = (torch.randn(size, generator=rng, device=device) for size in sizes)
    return [x, delta.sub_(2.0), -torch.exp(a), b, c, skip, gate]


def _contestant(name: str, bench: Bench) -> Callable[..., Tensor]:
    if name == "associative":
        return _associative_scan()
    if reason := why_not(name, bench.device, torch.float32):
        raise Skipped(reason)
    return lambda *tensors: selective_scan(*tensors, delta_softplus=True, backend=name)


def _associative_scan() -> Callable[..., Tensor]:
    """The same by the parallel scan of mambapy, in logarithmically many passes over all states."""
    if find_spec("mambapy") is None:
        raise Skipped("the package mambapy is not installed")
    from mambapy.pscan import pscan

    def scan(x_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_D: Tensor, gate_BLD: Tensor) -> Tensor:
        delta_BLD = F.softplus(delta_BLD)
        decay_BLDN = torch.exp(delta_BLD.unsqueeze(-1) * A_DN)
        drive_BLDN = (delta_BLD * x_BLD).unsqueeze(-1) * B_BLN.unsqueeze(2)
        states_BLDN = pscan(decay_BLDN, drive_BLDN)
        y_BLD = (states_BLDN @ C_BLN.unsqueeze(-1)).squeeze(-1) + D_D * x_BLD
        return y_BLD * F.silu(gate_BLD)

    return scan
