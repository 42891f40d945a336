"""The Mamba block: names and shapes of mamba_ssm, values and gradients of an independent implementation."""

import pytest
import torch
from mambapy.mamba import MambaBlock, MambaConfig

from neural_hamilton.architectures.layers.mamba import Mamba
from neural_hamilton.architectures.selective_scan import use_backend
from neural_hamilton.physics.errors import InputError

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
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equals_mambapy(dtype, tolerance, parallel, backend, monkeypatch):
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
        with use_backend(backend):
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


def test_mixed_precision():
    """Under autocast to bfloat16 the sequence is bfloat16 and A is not: a type that no fused CPU kernel takes."""
    torch.manual_seed(0)
    block, u = Mamba(16), torch.randn(2, 12, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(u)
        assert y.dtype == torch.bfloat16
        with use_backend("cpu"), pytest.raises(InputError, match="takes float32, float64, not bfloat16"):
            block(u)
    exact = block(u)
    assert (y.float() - exact).abs().max() < 0.02 * exact.abs().max()
