"""Which implementation of the scan runs, and why another cannot."""

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from ...physics.errors import InputError

BACKENDS = ("mamba_ssm", "cpu", "triton", "reference")  # in order of preference
VARIABLE = "NEURAL_HAMILTON_SCAN"

_DTYPES = {
    "mamba_ssm": (torch.float32, torch.float16, torch.bfloat16),
    "triton": (torch.float32, torch.float16, torch.bfloat16),
    "cpu": (torch.float32, torch.float64),
}
_forced: str | None = os.environ.get(VARIABLE) or None


def why_not(backend: str, device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Why `backend` cannot scan tensors of this kind, in a few words; None if it can. InputError for an unknown name."""
    if backend not in BACKENDS:
        raise InputError(f"scan backend is {backend!r}; choose one of {', '.join(BACKENDS)}")
    device = torch.device(device)
    if backend == "reference":
        return None
    if dtype not in _DTYPES[backend]:
        return f"it takes {', '.join(_name(d) for d in _DTYPES[backend])}, not {_name(dtype)}"
    if backend == "cpu":
        needed, package = "cpu", "numba"
    else:
        needed, package = "cuda", backend
        if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
            needed = "cpu"  # Triton's interpreter, for tests
    if device.type != needed:
        return f"it runs on {needed} tensors, not on {device.type}"
    if find_spec(package) is None:
        return f"the package {package.replace('_', '-')} is not installed"
    return None


def choose_backend(device: torch.device | str, dtype: torch.dtype = torch.float32, backend: str | None = None) -> str:
    """Name of the backend that a scan of such tensors uses: `backend`, else the forced one, else the first that can run.

    InputError if a backend is asked for by name, here, by `use_backend` or by NEURAL_HAMILTON_SCAN, and cannot run.
    """
    return resolve(torch.device(device).type, dtype, backend or _forced)


@contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Within the block, scans of this process use `backend`; None gives the choice back to the rule."""
    global _forced
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"scan backend is {backend!r}; choose one of {', '.join(BACKENDS)}")
    before, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = before


def forced_backend() -> str | None:
    """The name set by `use_backend` or the environment, if any."""
    return _forced


def resolve(device_type: str, dtype: torch.dtype, asked: str | None) -> str:
    """`choose_backend` on plain values; also loads the backend, so that its operators are registered."""
    return _resolve(device_type, dtype, asked)


# torch.compile takes the result as a constant of these arguments, which it is while a process lives. Set by
# torch.compiler.assume_constant_result, this mark would cost every command the import of the compiler, over a second.
resolve._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@functools.cache
def _resolve(device_type: str, dtype: torch.dtype, asked: str | None) -> str:
    if asked is not None:
        reason = why_not(asked, device_type, dtype)
        if reason is not None:
            raise InputError(f"scan backend is {asked!r}, and cannot be used: {reason}")
        chosen = asked
    else:
        chosen = next(name for name in BACKENDS if why_not(name, device_type, dtype) is None)
    importlib.import_module(f".{chosen}_backend", __package__)
    return chosen


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
