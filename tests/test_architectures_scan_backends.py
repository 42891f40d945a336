"""Which backend scans, how another is asked for, and what happens when it cannot run."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from neural_hamilton.architectures.selective_scan import BACKENDS, choose_backend, cpu_backend, selective_scan, use_backend, why_not
from neural_hamilton.physics import compiled as compiled_module
from neural_hamilton.physics.errors import InputError


def scan_arguments(shape, dtype=torch.float64):
    batch, length, channels, states = shape
    rng = torch.Generator().manual_seed(0)
    sizes = (
        ((batch, length, channels),) * 2 + ((channels, states),) + ((batch, length, states),) * 2 + ((channels,), (batch, length, channels))
    )
    x, delta, a, b, c, skip, gate = (torch.randn(size, generator=rng, dtype=dtype) for size in sizes)
    return x, delta, -torch.exp(a), b, c, skip, gate


def test_rule_of_choice():
    assert choose_backend("cpu") == "cpu"
    assert choose_backend("cpu", torch.float64) == "cpu"
    assert choose_backend("meta", torch.int64) == "reference"
    with use_backend("reference"):
        assert choose_backend("cpu") == "reference"
        assert choose_backend("cpu", backend="cpu") == "cpu"  # an argument is closer than a block
        with use_backend(None):
            assert choose_backend("cpu") == "cpu"
    assert choose_backend("cpu") == "cpu"


def test_a_backend_by_name_runs_or_says_why_not():
    tensors = scan_arguments((1, 2, 2, 2))
    for backend, reason in (
        ("mamba_ssm", "takes float32, float16, bfloat16, not float64"),
        ("triton", "takes float32, float16, bfloat16, not float64"),
        ("magic", "choose one of mamba_ssm, cpu, triton, reference"),
    ):
        with pytest.raises(InputError, match=reason):
            selective_scan(*tensors, backend=backend)
    with pytest.raises(InputError, match="runs on cuda tensors, not on cpu"):
        choose_backend("cpu", backend="mamba_ssm")
    with pytest.raises(InputError, match="runs on cpu tensors, not on cuda"):
        choose_backend("cuda", backend="cpu")
    with pytest.raises(InputError, match="'magic'"), use_backend("magic"):
        pass
    with use_backend("mamba_ssm"), pytest.raises(InputError, match="not float64"):
        selective_scan(*tensors)
    assert why_not("reference", "meta", torch.int8) is None
    assert set(BACKENDS) == {"mamba_ssm", "triton", "cpu", "reference"}


def test_the_environment_chooses_too():
    code = "from neural_hamilton.architectures.selective_scan import choose_backend; print(choose_backend('cpu'))"
    environment = os.environ | {"NEURAL_HAMILTON_SCAN": "reference"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "reference"
    environment["NEURAL_HAMILTON_SCAN"] = "mamba_ssm"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "InputError: scan backend is 'mamba_ssm', and cannot be used" in done.stderr


def test_mamba_ssm_is_given_its_own_layout(monkeypatch):
    """The package runs on CUDA alone; a double with its documented signature and shapes stands in for it."""

    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
        assert u.shape == delta.shape == z.shape == (2, 3, 5) and B.shape == C.shape == (2, 4, 5)  # channels before the sequence
        assert A.dtype == D.dtype == torch.float32 and delta_bias is None and not return_last_state
        if delta_softplus:
            delta = torch.nn.functional.softplus(delta)
        state, answers = torch.zeros(2, 3, 4), []
        for t in range(5):
            state = torch.exp(delta[:, :, t, None] * A) * state + delta[:, :, t, None] * B[:, None, :, t] * u[:, :, t, None]
            answers.append((state * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
        return torch.stack(answers, dim=-1) * torch.nn.functional.silu(z)

    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name, module in (
        ("mamba_ssm", types.ModuleType("mamba_ssm")),
        ("mamba_ssm.ops", types.ModuleType("mamba_ssm.ops")),
        (interface.__name__, interface),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    name = "neural_hamilton.architectures.selective_scan.mamba_ssm_backend"
    monkeypatch.delitem(sys.modules, name, raising=False)
    backend = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    tensors = scan_arguments((2, 5, 3, 4), torch.float32)
    torch.testing.assert_close(backend.scan(*tensors, True), selective_scan(*tensors, delta_softplus=True, backend="reference"))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_compiles_the_kernels_for_gpus():
    """By the compiler itself, which needs no GPU for it, where the interpreter takes more than the compiler does."""
    code = """
import itertools, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from neural_hamilton.architectures.selective_scan import triton_backend as backend

float32 = {"states_ptr", "scratch_ptr", "dA_ptr", "dB_ptr", "dC_ptr", "dD_ptr"}
for kernel, flag in ((backend._scan_forward, "KEEP"), (backend._scan_backward, None)):
    usual = itertools.product(("fp32", "bf16", "fp16"), (False, True), ((32, 16),))
    for dtype, option, (block_d, block_n) in (*usual, ("fp32", True, (1, 1))):
        constants = {"GATED": option, "SOFTPLUS": option, "BLOCK_D": block_d, "BLOCK_N": block_n, "CHUNK": 16}
        constants |= {flag: True} if flag else {}
        def kind(name):
            return "constexpr" if name in constants else "i32" if not name.endswith("_ptr") else "*fp32" if name in float32 else "*" + dtype
        source = ASTSource(kernel, {name: kind(name) for name in kernel.arg_names}, constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
        assert compiled.asm["cubin"]
print("compiled")
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "compiled", done.stderr


def test_an_installation_that_cannot_be_written_works(tmp_path):
    """Neither beside the file nor in a home folder nor among temporary files can machine code be kept: it is compiled for this process."""
    scan = tmp_path / "copied" / "architectures" / "selective_scan"
    for folder in (scan, scan.parent, scan.parent.parent / "physics"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / "__pycache__").write_text("not a folder")  # holds for root, too
    shutil.copy(Path(cpu_backend.__file__).with_name("cpu_kernels.py"), scan)
    shutil.copy(Path(compiled_module.__file__), scan.parent.parent / "physics")
    (tmp_path / f"neural-hamilton-numba-{os.getuid()}").write_text("not a folder either")
    code = (
        "from copied.architectures.selective_scan import cpu_kernels; "
        "assert type(cpu_kernels.scan_forward._cache).__name__ == 'NullCache'; print('ok')"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_CACHE", "XDG_"))}
    environment |= {"HOME": "/dev/null", "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "ok", done.stderr
