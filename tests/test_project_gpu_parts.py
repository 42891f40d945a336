"""The parts of `python -m benchmarks.gpu`: their cells, their parity checks, and what they count, by hand."""

import math
import time

import pytest
import torch
from gpu_helpers import bench_on_cpu

from benchmarks.gpu import infer, parity, train, work
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.networks import DIRECT, NETWORKS, network_config, shipped_models
from neural_hamilton.architectures import build_operator
from neural_hamilton.architectures.selective_scan import triton_backend
from neural_hamilton.platform.training.trained_for import task_of


def scan_row(tmp_path):
    return parity._scan(bench_on_cpu(tmp_path), "triton", torch.float32, 5)()


def test_cells_of_full_size_that_a_cpu_can_measure(tmp_path, monkeypatch):
    bench = Bench(torch.device("cpu"), False, time.time() + 300, tmp_path)
    monkeypatch.setattr(train, "_STREAM_SECONDS", 0.05)
    fed = train._stream(bench, "deeponet")()
    assert fed["batch"] == 1024 and fed["drawn_rows_per_second"] > 0
    for model in ("orbitnet-13-sensors", "mambonet-noisy-sensors"):
        solver = infer._solver(bench, model, shipped_models()[model], 1024)()
        network = infer._network(bench, model, shipped_models()[model], 1, "float32")()
        assert solver["times_the_networks_loss"] > 1 and network["trained"]
        assert network["median_loss"] < solver["median_loss"] < 0.01
    exact = infer._solver(bench, "orbitnet-phase-space", shipped_models()["orbitnet-phase-space"], 1)()
    assert exact["times_the_networks_loss"] <= 1 and exact["step"] == 0.01  # the quadrature's own error, which RK4 reaches


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run in the interpreter here")
def test_parity_notices_a_wrong_kernel(tmp_path, monkeypatch):
    assert scan_row(tmp_path)["passed"]
    forward, backward = triton_backend.scan_forward, triton_backend.scan_backward

    def leaves_one_out(*arguments):
        y, states = forward(*arguments)
        unwritten = torch.empty_like(y)
        unwritten[:, 1:] = y[:, 1:]
        return unwritten, states

    monkeypatch.setattr(triton_backend, "scan_forward", leaves_one_out)
    row = scan_row(tmp_path)
    assert math.isnan(row["error"]) and row["worst_tensor"] == "y" and not row["passed"]
    monkeypatch.setattr(triton_backend, "scan_forward", forward)

    def slightly_off(*arguments):
        *gradients, dgate = backward(*arguments)
        return *gradients, dgate * (1 + 1e-4)

    monkeypatch.setattr(triton_backend, "scan_backward", slightly_off)
    row = scan_row(tmp_path)
    assert row["worst_tensor"] == "dgate" and not row["passed"]
    monkeypatch.setattr(triton_backend, "scan_backward", lambda *a: tuple(g + 1e-9 * torch.rand(()) for g in backward(*a)))
    assert not scan_row(tmp_path)["same_bits"] and not scan_row(tmp_path)["passed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run in the interpreter here")
def test_parity_notices_a_network_that_predicts_otherwise(tmp_path, monkeypatch):
    measure = parity._network(bench_on_cpu(tmp_path), DIRECT)
    assert measure()["passed"]
    forward = triton_backend.scan_forward

    def slightly_off(*arguments):
        y, states = forward(*arguments)
        return y * 1.001, states

    monkeypatch.setattr(triton_backend, "scan_forward", slightly_off)
    row = measure()
    assert not row["passed"] and row["trajectory_error"] > 1e-5 and row["trajectory_error_of_cpu"] < 1e-6


def test_the_scan_moves_what_can_be_counted_by_hand():
    forward, both = (work.ScanWork(2, 32, 3, 4, backward) for backward in (False, True))
    sequence, selected, kept = 2 * 32 * 3, 2 * 32 * 4, 2 * 2 * 3 * 4
    assert forward.bytes == 4 * (4 * sequence + 2 * selected)  # x, delta, gate, y; B, C
    assert both.bytes == forward.bytes + 4 * (2 * kept + 7 * sequence + 4 * selected)
    assert (forward.exponentials, both.exponentials) == (2 * 32 * 3 * 4, 3 * 2 * 32 * 3 * 4)


def test_operations_of_a_network_can_be_counted_by_hand():
    config = network_config("deeponet", True, {})
    architecture, task = config.architecture, task_of(config.data)
    layers = [module for module in build_operator(architecture, task).modules() if isinstance(module, torch.nn.Linear)]
    trunk = [layer for layer in layers if layer.in_features == 1 + 2 * architecture.num_frequencies]
    assert len(trunk) == 1
    at_times = layers[layers.index(trunk[0]) :]
    of_rows = [layer for layer in layers if layer not in at_times]
    rows, times = 7, 10
    products = 2 * sum(rows * layer.weight.numel() for layer in of_rows) + 2 * sum(times * layer.weight.numel() for layer in at_times)
    sums = 2 * rows * times * 2 * architecture.num_channels
    assert work.network_operations(architecture, task, rows, (1, times), backward=False) == products + sums


@pytest.mark.parametrize("name", NETWORKS)
def test_a_backward_pass_costs_about_twice_the_forward_pass(name):
    """That of a depthwise convolution too, which PyTorch's own count takes for a full one."""
    config = network_config(name, True, {})
    architecture, task = config.architecture, task_of(config.data)
    forward, both = (work.network_operations(architecture, task, 8, (1, 10), backward) for backward in (False, True))
    assert 2.5 * forward < both <= 3.0 * forward
