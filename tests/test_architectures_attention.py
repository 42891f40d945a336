"""Attention: the compiled kernel of CPUs against PyTorch's, and when which of them runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from neural_hamilton.architectures.layers import attention as module
from neural_hamilton.architectures.layers.attention import attention


def by_pytorch(query, key, value, num_heads):
    """By plain products, in whatever type the inputs have."""
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    shares = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    return (shares @ value).transpose(1, 2).flatten(2)


def draw(batch, num_queries, num_keys, width, dtype=torch.float64, seed=0, spread=1.0):
    rng = torch.Generator().manual_seed(seed)
    lengths = (num_queries, num_keys, num_keys)
    return [spread * torch.randn(batch, length, width, generator=rng, dtype=torch.float64).to(dtype) for length in lengths]


def value_and_gradients(function, inputs, num_heads):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves, num_heads)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, leaves, weights)


@settings(max_examples=40)
@given(
    batch=st.integers(1, 4),
    num_queries=st.integers(1, 300),
    num_keys=st.integers(1, 150),
    num_heads=st.integers(1, 5),
    width=st.integers(1, 8),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**16),
)
def test_kernel_equals_plain_products(batch, num_queries, num_keys, num_heads, width, spread, seed):
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        inputs = draw(batch, num_queries, num_keys, num_heads * width, dtype, seed, spread)
        assert module._has_kernel(*inputs, num_heads)
        expected = value_and_gradients(by_pytorch, [x.double() for x in inputs], num_heads)
        for mine, theirs in zip(value_and_gradients(attention, inputs, num_heads), expected, strict=True):
            assert mine.dtype == dtype and mine.shape == theirs.shape
            # Scores of size x carry their rounding into the shares: relative to the largest element and the largest score.
            scale = max(1.0, float(theirs.abs().max())) * max(1.0, spread**2)
            assert float((mine.double() - theirs).abs().max()) <= tolerance * scale


def test_evaluation_equals_training():
    inputs = draw(3, 70, 20, 16)
    with torch.no_grad():
        answer = attention(*inputs, 2)
    torch.testing.assert_close(answer, value_and_gradients(attention, inputs, 2)[0], rtol=0, atol=0)


def test_takes_any_memory_layout():
    query, key, value = draw(2, 30, 20, 16)
    strided = torch.cat([key, value], dim=-1).chunk(2, dim=-1)
    shared = query[:1].expand(2, -1, -1)
    assert not strided[0].is_contiguous() and not shared.is_contiguous()
    torch.testing.assert_close(attention(shared, *strided, 2), by_pytorch(shared, key, value, 2))
    y = value_and_gradients(lambda q, k, v, h: attention(q.expand(2, -1, -1), k, v, h), (query[:1], key, value), 2)
    for mine, theirs in zip(
        y, value_and_gradients(lambda q, k, v, h: by_pytorch(q.expand(2, -1, -1), k, v, h), (query[:1], key, value), 2), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_large_scores_overflow_nowhere(size):
    query, key, value = draw(1, 5, 7, 8, torch.float32)
    y, *gradients = value_and_gradients(attention, (size * query, key, value), 1)
    torch.testing.assert_close(y, by_pytorch(size * query, key, value, 1), rtol=1e-3, atol=1e-3)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_nan_comes_out_where_it_went_in():
    query, key, value = draw(2, 5, 7, 8, torch.float32)
    query[0, 3, 0] = torch.nan
    y = attention(query, key, value, 1)
    assert bool(y[0, 3].isnan().all()) and int(y.isnan().sum()) == 8


def test_no_queries_and_no_rows():
    assert attention(*draw(2, 0, 7, 8), 1).shape == (2, 0, 8)
    assert attention(*draw(0, 3, 7, 8), 1).shape == (0, 3, 8)


@pytest.mark.parametrize(("width", "dtype"), [(64, torch.float32), (8, torch.bfloat16)])
def test_wide_heads_and_other_types_are_left_to_pytorch(width, dtype, monkeypatch):
    inputs = draw(2, 9, 7, width, dtype)
    expected = F.scaled_dot_product_attention(*(x.unsqueeze(1) for x in inputs)).squeeze(1)
    monkeypatch.setattr(module, "_forward", None)
    torch.testing.assert_close(attention(*inputs, 1), expected)


def test_second_derivatives_are_refused():
    inputs = [x.requires_grad_() for x in draw(1, 3, 4, 8)]
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(attention(*inputs, 1).sum(), inputs[0], create_graph=True)


def test_autograd_keeps_no_matrix_of_scores():
    kept = []
    inputs = [x.requires_grad_() for x in draw(1, 400, 300, 8)]

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention(*inputs, 1)
    assert sum(kept) == 8 * (400 + 300 + 300 + 400) + 400
