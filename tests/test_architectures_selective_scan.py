"""The selective scan: every backend against a plain loop, the reference, and what it promises about memory and threads."""

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neural_hamilton.architectures.layers.mamba import Mamba
from neural_hamilton.architectures.selective_scan import (
    causal_convolution,
    selective_scan,
    threads,
    why_not,
)
from neural_hamilton.physics.errors import InputError

HAS_CUDA = torch.cuda.is_available()
TRITON_DEVICE = "cuda" if HAS_CUDA else "cpu"
needs_triton = pytest.mark.skipif(
    (reason := why_not("triton", TRITON_DEVICE, torch.float32)) is not None, reason=f"no test of the Triton kernels here: {reason}"
)
BOTH_KERNELS = ["cpu", pytest.param("triton", marks=[needs_triton, pytest.mark.gpu])]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
NAMES = ("x", "delta", "A", "B", "C", "D", "gate")


def scan_arguments(shape, dtype=torch.float64, *, gated=True, softplus=True, seed=0, shift=0.0, device="cpu"):
    """Seven tensors; step sizes are positive where no softplus makes them so, `shift` moves them."""
    batch, length, channels, states = shape
    rng = torch.Generator().manual_seed(seed)
    shapes = (
        ((batch, length, channels),) * 2 + ((channels, states),) + ((batch, length, states),) * 2 + ((channels,), (batch, length, channels))
    )
    x, delta, a, b, c, skip, gate = (torch.randn(size, generator=rng, dtype=torch.float64) for size in shapes)
    delta = delta + shift if softplus else torch.nn.functional.softplus(delta + shift)
    tensors = (x, delta, -torch.exp(a), b, c, skip, gate if gated else None)
    return [None if tensor is None else tensor.to(device, dtype) for tensor in tensors]


def values_and_gradients(tensors, backend, softplus):
    leaves = [None if tensor is None else tensor.detach().clone().requires_grad_() for tensor in tensors]
    y = selective_scan(*leaves, delta_softplus=softplus, backend=backend)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.device, y.dtype)
    (y * weights).sum().backward()
    named = zip(NAMES, leaves, strict=True)
    return {"y": y.detach()} | {f"gradient of {name}": leaf.grad for name, leaf in named if leaf is not None}


def assert_alike(mine, reference, tolerance):
    """Relative to the largest element: what a sum of positive and negative terms can promise."""
    assert mine.keys() == reference.keys()
    for name, value in mine.items():
        expected = reference[name]
        assert value.dtype == expected.dtype and value.shape == expected.shape, name
        assert bool(value.isfinite().all()), name
        worst = float((value.double() - expected.double()).abs().max())
        assert worst <= tolerance * max(float(expected.double().abs().max()), 1e-30), f"{name}: {worst:.1e}"


def test_reference_equals_a_plain_loop():
    tensors = scan_arguments((2, 9, 3, 4), softplus=False)
    x, delta, a, b, c, skip, gate = (tensor.numpy() for tensor in tensors)
    expected = np.zeros_like(x)
    for batch in range(2):
        for channel in range(3):
            state = np.zeros(4)
            for t in range(9):
                step = delta[batch, t, channel]
                state = np.exp(step * a[channel]) * state + step * b[batch, t] * x[batch, t, channel]
                y, z = c[batch, t] @ state + skip[channel] * x[batch, t, channel], gate[batch, t, channel]
                expected[batch, t, channel] = y * z / (1 + np.exp(-z))
    np.testing.assert_allclose(selective_scan(*tensors, backend="reference").numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("gated", "softplus"), [(True, True), (False, False)])
def test_gradients_against_finite_differences(backend, gated, softplus):
    tensors = scan_arguments((2, 5, 2, 3), gated=gated, softplus=softplus)
    leaves = tuple(tensor.requires_grad_() for tensor in tensors if tensor is not None)
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t, delta_softplus=softplus, backend=backend), leaves)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(1, 17))


@given(shapes, st.sampled_from([torch.float32, torch.float64]), st.booleans(), st.booleans(), st.integers(0, 2**31), st.floats(-9, 5))
@settings(max_examples=40)
@example((1, 1, 1, 1), torch.float64, True, True, 0, 0.0)  # the smallest
@example((1, 2048, 3, 2), torch.float64, True, True, 0, -5.0)  # the longest
@example((1, 2048, 3, 2), torch.float32, False, True, 0, -5.0)
@example((2, 16, 64, 16), torch.float32, True, True, 0, 0.0)  # exactly one chunk and one block
@example((2, 33, 130, 1), torch.float32, True, False, 0, 0.0)  # three blocks, the last of two channels
def test_cpu_equals_reference(shape, dtype, gated, softplus, seed, shift):
    tensors = scan_arguments(shape, dtype, gated=gated, softplus=softplus, seed=seed, shift=shift)
    # Two float32 results may differ by the rounding of either, so both are held against float64.
    exact = [None if tensor is None else tensor.double() for tensor in tensors]
    truth = {name: value.to(dtype) for name, value in values_and_gradients(exact, "reference", softplus).items()}
    assert_alike(values_and_gradients(tensors, "cpu", softplus), truth, TOLERANCE[dtype])


@given(
    st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40), st.integers(1, 17)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=12)
@example((1, 1, 1, 1), True, True, 0)
@example((2, 33, 70, 16), True, True, 0)
@needs_triton
@pytest.mark.gpu
def test_triton_equals_reference(shape, gated, softplus, seed):
    tensors = scan_arguments(shape, torch.float32, gated=gated, softplus=softplus, seed=seed, shift=-2.0, device=TRITON_DEVICE)
    exact = [None if tensor is None else tensor.double() for tensor in tensors]
    truth = {name: value.float() for name, value in values_and_gradients(exact, "reference", softplus).items()}
    assert_alike(values_and_gradients(tensors, "triton", softplus), truth, 1e-5)


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_triton_takes_half_precision_and_computes_in_float32(dtype, tolerance):
    tensors = scan_arguments((2, 40, 5, 3), dtype, shift=-2.0, device=TRITON_DEVICE)
    assert_alike(values_and_gradients(tensors, "triton", True), values_and_gradients(tensors, "reference", True), tolerance)


@pytest.mark.parametrize("backend", BOTH_KERNELS)
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_large_step_sizes_overflow_nowhere(backend, size):
    device = TRITON_DEVICE if backend == "triton" else "cpu"
    tensors = scan_arguments((1, 20, 3, 4), torch.float32, gated=False, softplus=False, device=device)
    tensors[1] = torch.full_like(tensors[1], size)
    assert_alike(values_and_gradients(tensors, backend, False), values_and_gradients(tensors, "reference", False), 1e-5)
    tensors[1] = torch.full_like(tensors[1], -size)  # and softplus of very negative numbers is nothing at all
    result = values_and_gradients(tensors, backend, True)
    assert all(bool(value.isfinite().all()) for value in result.values())


def test_step_sizes_keep_their_relative_accuracy_when_tiny():
    raw = torch.linspace(-80, 40, 2001, dtype=torch.float64)[:, None, None]
    ones = torch.ones(2001, 1, 1, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        # One step from rest with A = 0 and D = 0: y = delta.
        tensors = (t.to(dtype) for t in (ones, raw, torch.zeros(1, 1), ones, ones, torch.zeros(1)))
        y = selective_scan(*tensors, delta_softplus=True, backend="cpu").flatten().double()
        rounded = raw.flatten().to(dtype).double()
        relative_error = (y / torch.from_numpy(np.logaddexp(0.0, rounded.numpy())) - 1).abs()
        assert bool((relative_error <= torch.finfo(dtype).eps * (2 + rounded.abs())).all())  # rounding of the exponent, and of the result


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-7), (torch.float64, 5e-16)])
def test_decay_is_exp_to_rounding(dtype, tolerance):
    # Two steps with A = -1, the first of them of size 1 with x = 1, the second with x = 0: y_1 = exp(-delta_1).
    argument = torch.linspace(-1.0, 0.0, 4001, dtype=torch.float64)
    x = torch.stack([torch.ones(4001), torch.zeros(4001)], dim=1).unsqueeze(-1).to(dtype)
    delta = torch.stack([torch.ones(4001, dtype=torch.float64), -argument], dim=1).unsqueeze(-1).to(dtype)
    ones = torch.ones(4001, 2, 1, dtype=dtype)
    y = selective_scan(x, delta, -torch.ones(1, 1, dtype=dtype), ones, ones, torch.zeros(1, dtype=dtype), backend="cpu")
    expected = torch.exp(-delta[:, 1, 0].double())
    assert float((y[:, 1, 0].double() / expected - 1).abs().max()) < tolerance


def test_nan_that_comes_in_comes_out():
    for place in range(7):
        tensors = scan_arguments((1, 6, 3, 2), torch.float32)
        tensors[place].view(-1)[0] = torch.nan
        mine, reference = (selective_scan(*tensors, delta_softplus=True, backend=name) for name in ("cpu", "reference"))
        assert bool(torch.equal(mine.isnan(), reference.isnan())), NAMES[place]


@pytest.mark.parametrize("backend", BOTH_KERNELS)
def test_takes_any_memory_layout(backend):
    device = TRITON_DEVICE if backend == "triton" else "cpu"
    tensors = scan_arguments((2, 18, 6, 4), torch.float32, device=device)
    scattered = [
        torch.stack([t, t + 1], dim=-1)[..., 0] if t.ndim == 1 else t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors
    ]
    assert not any(tensor.is_contiguous() for tensor in scattered)
    expected = values_and_gradients(tensors, backend, True)
    leaves = [tensor.requires_grad_() for tensor in scattered]
    y = selective_scan(*leaves, delta_softplus=True, backend=backend)
    assert torch.equal(y, expected["y"])
    y.sum().backward()  # whose gradient is an expanded scalar
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("batch", [0, 1])
def test_an_empty_batch_is_no_special_case(batch):
    tensors = scan_arguments((batch, 5, 3, 2), torch.float32)
    result = values_and_gradients(tensors, "cpu", True)
    assert result["y"].shape == (batch, 5, 3) and result["gradient of A"].shape == (3, 2)


def test_second_derivatives_are_refused_not_wrong():
    tensors = [tensor.requires_grad_() for tensor in scan_arguments((1, 3, 2, 2))]
    y = selective_scan(*tensors, delta_softplus=True, backend="cpu")
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(y.sum(), tensors[0], create_graph=True)
    y = causal_convolution(tensors[0], tensors[2], tensors[5], backend="cpu")
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(y.sum(), tensors[0], create_graph=True)
    leaves = tuple(tensors)
    assert torch.autograd.gradgradcheck(lambda *t: selective_scan(*t, delta_softplus=True, backend="reference"), leaves)


@pytest.fixture(params=["PyTorch's", "Python's"])
def thread_owner(request, monkeypatch):
    """Whose threads share the work; on a system without GNU's OpenMP only Python's."""
    if request.param == "Python's":
        monkeypatch.setattr(threads, "openmp", lambda: None)
    elif threads.openmp() is None:
        pytest.skip("no GNU OpenMP in this process")
    return request.param


@pytest.mark.usefixtures("thread_owner")
def test_work_is_done_by_several_threads_and_all_of_it():
    seen, todo, lock = set(), iter(range(40)), threading.Lock()
    both = threading.Barrier(2)

    def work():
        for number in todo:
            with lock:
                seen.add((threading.get_ident(), number))
            if number < 2:
                both.wait(timeout=60)  # the first two numbers go to two threads, or time out

    threads.run_on_threads(work, 2)
    assert len({thread for thread, _ in seen}) == 2 and {number for _, number in seen} == set(range(40))


@pytest.mark.usefixtures("thread_owner")
@pytest.mark.parametrize("failure", [FloatingPointError, KeyboardInterrupt])
def test_failure_on_any_thread_is_raised(failure):
    def fail(start, stop):
        raise failure("on purpose")

    with pytest.raises(failure, match="on purpose"):
        threads.share(fail, 100, 2**30)


@pytest.mark.usefixtures("thread_owner")
def test_result_does_not_depend_on_the_number_of_threads(monkeypatch):
    used, run_on_threads = set(), threads.run_on_threads
    monkeypatch.setattr(threads, "run_on_threads", lambda work, count: (used.add(count), run_on_threads(work, count)))
    tensors = scan_arguments((9, 90, 70, 16), torch.float32)  # enough work for several
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(values_and_gradients(tensors, "cpu", True))
        assert used >= {2, 5}
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in other.items():
            # Sums over the batch are PyTorch's, which splits them by thread.
            torch.testing.assert_close(value, results[0][name], rtol=1e-5 if name in {"gradient of A", "gradient of D"} else 0, atol=0)


@pytest.mark.usefixtures("thread_owner")
def test_many_callers_at_once():
    tensors = scan_arguments((8, 90, 64, 16), torch.float32)
    expected = selective_scan(*tensors, delta_softplus=True, backend="cpu")
    before, wrong = torch.get_num_threads(), []

    def call():
        for _ in range(5):
            if not torch.equal(selective_scan(*tensors, delta_softplus=True, backend="cpu"), expected):
                wrong.append(threading.current_thread().name)

    try:
        torch.set_num_threads(3)
        callers = [threading.Thread(target=call) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert not wrong


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_works_in_a_child_process(method, tmp_path):
    code = f"""
import multiprocessing
import numpy, torch
from neural_hamilton.architectures.selective_scan import selective_scan, threads

def ones(*shape):  # NumPy makes and sums: a forked child of a process that used PyTorch's own threads hangs in them
    return torch.from_numpy(numpy.ones(shape, numpy.float32))

def scan(_):
    torch.set_num_threads(2)
    x, B = ones(8, 90, 64), ones(8, 90, 16)
    return float(selective_scan(x, x, torch.from_numpy(-numpy.ones((64, 16), numpy.float32)), B, B, ones(64), backend="cpu").numpy().sum())

if __name__ == "__main__":
    started, run_on_threads = [], threads.run_on_threads
    threads.run_on_threads = lambda work, count: (started.append(count), run_on_threads(work, count))
    before = scan(0)
    assert started and min(started) == 2  # threads in the parent, which a fork does not copy
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert pool.map(scan, range(2)) == [before] * 2
"""
    script = tmp_path / "scan_in_children.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def bytes_kept(length, backend):
    """What autograd keeps from the forward pass for the backward, beyond the tensors that were given."""
    tensors = [tensor.requires_grad_() for tensor in scan_arguments((2, length, 32, 16), torch.float32)]
    given_storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan(*tensors, delta_softplus=True, backend=backend)
    return sum(size for pointer, size in kept.items() if pointer not in given_storages)


@pytest.mark.parametrize("backend", ["cpu", pytest.param("triton", marks=pytest.mark.skipif(HAS_CUDA, reason="tensors are on the CPU"))])
def test_memory_grows_linearly_with_a_small_constant(backend):
    if reason := why_not(backend, "cpu", torch.float32):
        pytest.skip(reason)
    one_tensor = 2 * 48 * 32 * 4  # (B, L, D) in float32
    assert bytes_kept(48, backend) == one_tensor  # N / CHUNK of it
    assert bytes_kept(96, backend) == 2 * one_tensor
    assert bytes_kept(48, "reference") > 30 * one_tensor


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile_keeps_the_block_in_one_graph(backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor wants a C++ compiler")
    torch.manual_seed(0)
    block, u = Mamba(16), torch.randn(2, 20, 16)
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    results = []
    for module in (compiled, block):
        block.zero_grad()
        y = module(u)
        y.square().sum().backward()
        results.append({"y": y.detach()} | {name: p.grad.clone() for name, p in block.named_parameters()})
    assert_alike(*results, 1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(u), block(u))


@given(shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 70)), taps=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25)
@example(shape=(1, 1, 1), taps=4, seed=0)  # a sequence shorter than the taps
def test_convolution_equals_pytorchs(shape, taps, seed):
    rng = torch.Generator().manual_seed(seed)
    sizes = (shape, (shape[2], taps), (shape[2],))
    tensors = [torch.randn(size, generator=rng, dtype=torch.float64) for size in sizes]
    for dtype in (torch.float32, torch.float64):
        results = []
        for backend, kind in (("cpu", dtype), ("reference", torch.float64)):
            leaves = [tensor.to(dtype).to(kind).requires_grad_() for tensor in tensors]
            y = causal_convolution(*leaves, backend=backend)
            (y * torch.linspace(-1, 1, y.numel(), dtype=kind).reshape(y.shape)).sum().backward()
            results.append({"y": y.detach()} | dict(zip(("x", "weight", "bias"), (leaf.grad for leaf in leaves), strict=True)))
        if shape[0] == 0:
            assert results[0]["y"].shape == shape
            continue
        assert_alike(results[0], {name: value.to(dtype) for name, value in results[1].items()}, TOLERANCE[dtype])


@pytest.mark.parametrize(("place", "shape"), [(1, (2, 4, 3)), (2, (4, 2)), (3, (2, 5, 3)), (4, (1, 5, 2)), (5, (2,)), (6, (2, 5, 1))])
def test_shapes_that_do_not_fit_are_refused(place, shape):
    tensors = scan_arguments((2, 5, 3, 2))
    tensors[place] = torch.ones(shape, dtype=torch.float64)
    with pytest.raises(InputError, match=r"it must be|must be \(B, L, D\)"):
        selective_scan(*tensors)


def test_types_that_do_not_fit_are_refused():
    tensors = scan_arguments((2, 5, 3, 2))
    tensors[5] = tensors[5].float()
    with pytest.raises(InputError, match="wants one type for all"):
        selective_scan(*tensors, backend="cpu")
