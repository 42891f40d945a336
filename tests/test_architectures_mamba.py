"""The Mamba block: names and shapes of mamba_ssm, values and gradients of an independent implementation."""

import numpy as np
import pytest
import torch
from mambapy.mamba import MambaBlock, MambaConfig

from neural_hamilton.architectures.mamba import Mamba
from neural_hamilton.architectures.selective_scan import selective_scan

# mamba_ssm.modules.mamba_simple.Mamba(d_model=64): d_inner 128, dt_rank 4, d_state 16, d_conv 4
MAMBA_SSM = {
    "A_log": (128, 16),
    "D": (128,),
    "in_proj.weight": (256, 64),
    "conv1d.weight": (128, 1, 4),
    "conv1d.bias": (128,),
    "x_proj.weight": (36, 128),
    "dt_proj.weight": (128, 4),
    "dt_proj.bias": (128,),
    "out_proj.weight": (64, 128),
}


def test_names_and_shapes_are_those_of_mamba_ssm():
    assert {name: tuple(tensor.shape) for name, tensor in Mamba(64).state_dict().items()} == MAMBA_SSM


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("parallel", [False, True])
def test_equals_mambapy(dtype, tolerance, parallel, monkeypatch):
    # mambapy rounds A and D to float32 in its forward pass whatever their dtype; without that it is a float64 reference.
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)
    torch.manual_seed(0)
    ours = Mamba(32).to(dtype)
    theirs = MambaBlock(MambaConfig(d_model=32, n_layers=1, d_state=16, pscan=parallel)).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 25, 32, dtype=dtype)
    weights = torch.randn(2, 25, 32, dtype=dtype)
    answers = []
    for block in (ours, theirs):
        u = x.clone().requires_grad_()
        y = block(u)
        (y * weights).sum().backward()
        answers.append({"output": y.detach(), "input": u.grad} | {name: p.grad for name, p in block.named_parameters()})
    assert answers[0].keys() == answers[1].keys()
    for name, mine in answers[0].items():
        assert (mine - answers[1][name]).abs().max() <= tolerance * answers[1][name].abs().max(), name


def test_is_causal():
    block, x = Mamba(16).double(), torch.randn(1, 20, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 12:] += 1.0
    torch.testing.assert_close(block(x)[:, :12], block(changed)[:, :12], atol=1e-14, rtol=0)
    assert (block(x)[:, 12:] - block(changed)[:, 12:]).abs().max() > 1e-3


def test_initial_step_sizes_are_in_the_papers_range():
    delta = torch.nn.functional.softplus(Mamba(64).dt_proj.bias.detach())
    assert 1e-3 * 0.99 <= float(delta.min()) < 5e-3
    assert 5e-2 < float(delta.max()) <= 1e-1 * 1.01


def scan_arguments(b, length, d, n):
    rng = torch.Generator().manual_seed(2)
    shapes = ((b, length, d), (b, length, d), (d, n), (b, length, n), (b, length, n), (d,))
    x, delta, a, b_, c, skip = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return x, torch.nn.functional.softplus(delta), -torch.exp(a), b_, c, skip


def test_scan_equals_a_plain_double_loop():
    tensors = scan_arguments(2, 9, 3, 4)
    x, delta, a, b, c, skip = (t.numpy() for t in tensors)
    expected = np.zeros_like(x)
    for batch in range(2):
        for channel in range(3):
            state = np.zeros(4)
            for t in range(9):
                step = delta[batch, t, channel]
                state = np.exp(step * a[channel]) * state + step * b[batch, t] * x[batch, t, channel]
                expected[batch, t, channel] = c[batch, t] @ state + skip[channel] * x[batch, t, channel]
    np.testing.assert_allclose(selective_scan(*tensors).numpy(), expected, atol=1e-13)


def test_scan_gradients():
    arguments = tuple(t.requires_grad_() for t in scan_arguments(2, 4, 2, 3))
    assert torch.autograd.gradcheck(selective_scan, arguments)


def test_scan_of_one_step():
    x, delta, a, b, c, skip = scan_arguments(1, 1, 2, 3)
    expected = (delta * x) * (b * c).sum(-1, keepdim=True) + skip * x
    torch.testing.assert_close(selective_scan(x, delta, a, b, c, skip), expected)
