"""Attention: by hand, and the same by either way."""

from __future__ import annotations

import math

import pytest
import torch

from worldline.ops.attention import attend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_hand(dtype: torch.dtype):
    # Scores (ln 3, 0, 9) of one query, the last of which is masked: weights (3/4, 1/4)
    query = torch.tensor([[[[2.0, 0.0, 0.0, 0.0]]]], dtype=dtype)
    key = torch.tensor([[[[math.log(3), 0, 0, 0], [0, 5.0, 0, 0], [9.0, 0, 0, 0]]]], dtype=dtype)
    value = torch.tensor([[[[4.0, 0, 0, 0], [8.0, 4.0, 0, 0], [100.0, 0, 0, 0]]]], dtype=dtype)
    result = attend(query, key, value, torch.tensor([[True, True, False]]))
    assert result.dtype == dtype
    assert result.flatten().tolist() == pytest.approx([5.0, 1.0, 0.0, 0.0], abs=0.02)


@pytest.mark.parametrize("is_masked", [True, False])
def test_both_ways_agree_in_values_and_gradients(is_masked: bool):
    torch.manual_seed(0)
    narrow = [torch.randn(2, 3, 5, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    wide = [tensor.detach().float().requires_grad_() for tensor in narrow]
    mask = torch.tensor([[True, False, True, True, True], [False, True, False, False, True]]) if is_masked else None
    weights = torch.randn(2, 3, 5, 8)
    results = []
    for tensors in (narrow, wide):
        result = attend(*tensors, mask)
        (result.float() * weights).sum().backward()
        results.append(result.float())
    assert torch.allclose(*results, atol=0.03)
    for one, other in zip(narrow, wide, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad.float(), other.grad, atol=0.06)


def test_autocast_is_no_error():
    tensors = [torch.randn(1, 2, 3, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        attend(*tensors).float().sum().backward()
    assert all(tensor.grad is not None for tensor in tensors)


def test_shapes_are_checked():
    query = torch.zeros(1, 1, 2, 4)
    with pytest.raises(AssertionError, match="differ"):
        attend(query, query, query[:, :, :1])
    with pytest.raises(AssertionError, match=r"is not \[B, C\]"):
        attend(query, query, query, torch.ones(1, 3, dtype=torch.bool))
