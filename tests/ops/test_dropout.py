from __future__ import annotations

import math

import pytest
import torch

from worldline.ops.dropout import sparse_dropout


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_each_element_is_dropped_as_often(rate: float):
    torch.manual_seed(0)
    rows = torch.stack([sparse_dropout(torch.ones(500), rate) for _ in range(2000)])
    assert torch.equal(rows.unique(), torch.tensor([0, 1 / (1 - rate)]))
    dropped = (rows == 0).float()
    deviation = math.sqrt(rate * (1 - rate))
    # Five deviations: over all, at each place, and of neighbours together
    assert abs(dropped.mean() - rate) < 5 * deviation / math.sqrt(rows.numel())
    assert ((dropped.mean(0) - rate).abs() < 5 * deviation / math.sqrt(len(rows))).all()
    both = (dropped[:, 1:] * dropped[:, :-1]).mean()
    assert abs(both - rate**2) < 5 * rate * math.sqrt(1 - rate**2) / math.sqrt(rows.numel()) + 1e-4


def test_gradients_go_where_values_went():
    torch.manual_seed(0)
    x = torch.randn(40, 50, requires_grad=True)
    y = sparse_dropout(x, 0.1)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 1 / 0.9))


def test_nothing_to_drop():
    x = torch.randn(3)
    assert sparse_dropout(x, 0.0) is x
    assert sparse_dropout(torch.zeros(0, 3), 0.5).shape == (0, 3)
