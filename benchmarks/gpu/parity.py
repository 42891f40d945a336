"""Whether the device computes what the CPU does: the scan's kernels, every network, the shipped models, the tests marked `gpu`.

Truth is float64. An error is norm(result - truth) / norm(truth). Shapes: B batch, L sequence, D channels, N states.
"""

import copy
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from neural_hamilton.architectures import Operator, build_operator, load_model
from neural_hamilton.architectures.selective_scan import selective_scan, use_backend, why_not
from neural_hamilton.platform.training.batches import Batch
from neural_hamilton.platform.training.precision import matmul_precision
from neural_hamilton.platform.training.trained_for import task_of

from .bench import OUT_OF_TIME, Bench, Cell, Skipped
from .networks import NETWORKS, data_of, draw, network_config, shipped_models
from .record import complain
from .scan import inputs

_ROOT = Path(__file__).resolve().parent.parent.parent
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
_LENGTHS = (1, 2, 15, 16, 17, 100, 1023, 1024, 4097)
# B, D, N; gated; softplus. Sizes: one of each, more than a block, three blocks and states that are padded.
_CASES = (((1, 1, 1), True, True), ((3, 33, 16), True, True), ((3, 33, 16), False, True), ((2, 130, 5), True, False))
_NAMES = ("y", "dx", "ddelta", "dA", "dB", "dC", "dD", "dgate")
# An error may be that of the plain implementation times the first; the second is next to nothing in float32.
TOLERATED_RATIO, NEGLIGIBLE = 10.0, 1e-6
_TOLERATED_CANCELLATION = 0.03  # times a bound: partial sums are rounded by a fraction of what the terms have together


def cells(bench: Bench) -> Iterator[Cell]:
    for backend in ("triton", "mamba_ssm"):
        for dtype in BOUNDS:
            for length in bench.size(_LENGTHS, (17,)):
                yield Cell(
                    {"check": "scan", "backend": backend, "dtype": _name(dtype), "length": length}, _scan(bench, backend, dtype, length)
                )
    for name in NETWORKS:
        yield Cell({"check": "network", "network": name}, _network(bench, name))
    for name, folder in shipped_models().items():
        yield Cell({"check": "shipped model", "model": name}, _shipped(bench, folder))
    yield Cell({"check": "tests marked gpu"}, lambda: _tests(bench))


def _scan(bench: Bench, backend: str, dtype: torch.dtype, length: int) -> Callable[[], dict[str, Any]]:
    """All cases of one length; the worst error, of which tensor, and whether a second run gave the same bits."""

    def measure() -> dict[str, Any]:
        if reason := why_not(backend, bench.device, dtype):
            raise Skipped(reason)
        seed = bench.size(int.from_bytes(os.urandom(4)), 0)
        rng = torch.Generator().manual_seed(seed)
        errors, repeats = list[tuple[float, float, str]](), True
        for shape, gated, softplus in bench.size(_CASES, (((1, 5, 3), True, True),)):
            tensors = [x if x is None else x.to(bench.device) for x in _arguments(shape, length, gated, softplus, dtype, rng)]
            with _poisoned(bench.device):
                results = _values_and_gradients(tensors, softplus, backend, dtype)
                again = _values_and_gradients(tensors, softplus, backend, dtype)
            loop = _values_and_gradients(tensors, softplus, "reference", dtype)
            truth = _values_and_gradients([x if x is None else x.double() for x in tensors], softplus, "reference", dtype)
            for name, result, second, plain, exact in zip(_NAMES[: len(truth)], results, again, loop, truth, strict=True):
                repeats &= torch.equal(result, second)
                # Where terms cancel, as in a gradient that is one number, the plain loop in this type is inaccurate too.
                bound = max(BOUNDS[dtype], TOLERATED_RATIO * _error(plain, exact))
                if name == "dD":  # a sum of B L terms, of which the plain loop's order may be the lucky one
                    bound = max(bound, BOUNDS[dtype] * _TOLERATED_CANCELLATION * _cancellation(tensors, exact))
                errors.append((_error(result, exact), bound, name))
        error, bound, name = max(errors, key=lambda each: math.inf if math.isnan(each[0]) else each[0] / each[1])
        passed = error <= bound and (repeats or backend != "triton")  # mamba_ssm adds up atomically
        return {"error": error, "worst_tensor": name, "bound": bound, "same_bits": repeats, "seed": seed, "passed": passed}

    return measure


def _cancellation(tensors: list[Tensor | None], dD_D: Tensor) -> float:
    """What the terms of dL/dD have together, over what is left of them when they are added up."""
    x_BLD, gate_BLD = (None if tensor is None else tensor.double().cpu() for tensor in (tensors[0], tensors[-1]))
    assert x_BLD is not None
    terms_BLD = _gradient_of_y(x_BLD) * x_BLD * (1.0 if gate_BLD is None else nn.functional.silu(gate_BLD))
    return float(terms_BLD.abs().sum(dim=(0, 1)).norm() / dD_D.double().cpu().norm())


def _gradient_of_y(y_BLD: Tensor) -> Tensor:
    return torch.linspace(-1.0, 2.0, y_BLD.numel(), device=y_BLD.device).reshape(y_BLD.shape)


def _arguments(
    shape: tuple[int, int, int], length: int, gated: bool, softplus: bool, dtype: torch.dtype, rng: torch.Generator
) -> list[Tensor | None]:
    batch, channels, states = shape
    x, delta, *rest, gate = inputs((batch, length, channels, states), torch.device("cpu"), rng)
    tensors = (x, delta if softplus else nn.functional.softplus(delta), *rest, gate if gated else None)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


def _values_and_gradients(tensors: list[Tensor | None], softplus: bool, backend: str, dtype: torch.dtype) -> list[Tensor]:
    """y and the gradients of all tensors, for a gradient of y that `dtype` holds exactly."""
    leaves = [None if tensor is None else tensor.detach().clone().requires_grad_() for tensor in tensors]
    y_BLD = selective_scan(*leaves, delta_softplus=softplus, backend=backend)  # pyright: ignore[reportArgumentType]
    y_BLD.backward(_gradient_of_y(y_BLD).to(dtype).to(y_BLD.dtype))
    return [y_BLD.detach(), *(leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None)]


@contextmanager
def _poisoned(device: torch.device) -> Iterator[None]:
    """Within, fresh memory is NaN: an element that a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # with it, `torch.empty` fills what it makes
    try:
        if not torch.empty(1000, device=device).isnan().all():
            raise RuntimeError("fresh memory could not be poisoned")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def _network(bench: Bench, name: str) -> Callable[[], dict[str, Any]]:
    """q and p of real rows, and the gradient of their loss by all parameters, in training mode."""

    def measure() -> dict[str, Any]:
        config = network_config(name, bench.tiny, {})
        rows = draw(config.data, bench.size(32, 2))
        torch.manual_seed(0)
        model = build_operator(config.architecture, task_of(config.data))
        model.set_normalisation(float(rows.potential.mean()), float(rows.potential.std()))
        with torch.no_grad():  # heads that start at zero would hide what is before them
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return _agreement(bench, model.train(), rows, _trajectory_and_gradient, "triton")

    return measure


def _shipped(bench: Bench, folder: Path) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        return _agreement(bench, load_model(folder), draw(data_of(folder), bench.size(256, 2)), _trajectory, "reference")

    return measure


def _agreement(
    bench: Bench, model: Operator, rows: Batch, compute: Callable[[Operator, Batch], list[Tensor]], rehearsed_with: str
) -> dict[str, Any]:
    """The error of the device and of the CPU, both in float32, against the CPU in float64.

    In a rehearsal on a CPU the scan of the device is another than the CPU's own: Triton's interpreter, or the plain loop for
    networks of full size.
    """
    truth = compute(copy.deepcopy(model).double(), Batch(*(tensor.double() for tensor in vars(rows).values())))
    on_cpu = compute(model, rows)
    with matmul_precision("float32", bench.device), use_backend(None if bench.device.type == "cuda" else rehearsed_with):
        on_device = compute(copy.deepcopy(model).to(bench.device), rows.to(bench.device))
    figures: dict[str, Any] = {}
    for of, results in (("", on_device), ("_of_cpu", on_cpu)):
        figures[f"trajectory_error{of}"] = _error(results[0], truth[0])
        if len(truth) > 1:
            figures[f"gradient_error{of}"] = _gradient_error(results[1:], truth[1:])
    names = [name for name in figures if name.endswith("_error")]
    return figures | {"passed": all(agrees(figures[name], figures[f"{name}_of_cpu"]) for name in names)}


def agrees(error: float, error_of_cpu: float) -> bool:
    """Whether an error of float32 on the device is like that on the CPU; never where it is NaN."""
    return error <= TOLERATED_RATIO * error_of_cpu + NEGLIGIBLE


def _trajectory(model: Operator, rows: Batch) -> list[Tensor]:
    with torch.inference_mode():
        output = model(rows.potential, rows.times, rows.initial)
        return [torch.stack([output.q, output.p])]


def _trajectory_and_gradient(model: Operator, rows: Batch) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)

    def drawn_on_the_cpu(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng, dtype=torch.float64).to(like)

    with patch.object(torch, "randn_like", drawn_on_the_cpu):  # what a network draws in training is then the same everywhere
        output = model(rows.potential, rows.times, rows.initial)
    loss = 0.5 * ((output.q - rows.q).square().mean() + (output.p - rows.p).square().mean()) + output.auxiliary_loss
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    return [torch.stack([output.q, output.p]).detach(), *gradients]


def _gradient_error(results: list[Tensor], truth: list[Tensor]) -> float:
    """Of the parameter that is worst off. One with next to no gradient is measured by a ten-thousandth of the whole gradient's norm."""
    least = 1e-4 * float(torch.stack([exact.norm() for exact in truth]).norm())
    pairs = [(float((mine.double().cpu() - exact).norm()), float(exact.norm())) for mine, exact in zip(results, truth, strict=True)]
    errors = [difference / max(norm, least) for difference, norm in pairs]
    return max(errors, key=lambda error: (math.isnan(error), error))


def _error(result: Tensor, truth: Tensor) -> float:
    """NaN where the result has one."""
    truth = truth.double().cpu()
    scale = float(truth.norm())
    return float((result.double().cpu() - truth).norm()) / (scale if scale > 0.0 else 1.0)


def _tests(bench: Bench) -> dict[str, Any]:
    chosen = bench.size(["-n", "4"], ["-n", "0", "-k", "memory_layout and triton"])
    files = [str(path) for path in sorted((_ROOT / "tests").glob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *chosen, *files]  # others may need Ray
    try:
        done = subprocess.run(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=bench.seconds_left()
        )
    except subprocess.TimeoutExpired:
        raise Skipped(OUT_OF_TIME) from None
    summary = (done.stdout.splitlines() or [""])[-1]
    counts = {f"tests_{outcome}": int(count) for count, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}
    passed = done.returncode == 0 and counts.get("tests_passed", 0) > 0
    if not passed:
        complain(done.stdout[-4000:] + done.stderr[-4000:])
    return {**counts, "passed": passed, "exit_code": done.returncode}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
