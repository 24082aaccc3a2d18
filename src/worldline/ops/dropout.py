"""Dropout whose cost is that of what it drops."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sparse_dropout(x: Tensor, rate: float) -> Tensor:
    """Return `x` (any shape) with each element zero with probability `rate`, the others scaled by 1 / (1 - rate).

    Where a Bernoulli trial is drawn for every element, dropping one in a hundred costs as much as dropping half. Here
    the gaps between dropped elements are drawn, which are geometrically distributed: the same mask in law, from a
    hundredth of the random numbers. Noise comes from torch's default generator.
    """
    assert 0 <= rate < 1, f"rate must be in [0, 1); got {rate}"
    size = x.numel()
    if not rate or not size:
        return x
    expected = size * rate
    num = int(expected + 10 * math.sqrt(expected) + 20)  # ten deviations more than will do
    uniform = torch.rand(num, device=x.device).clamp_(min=1e-7)
    gaps = uniform.log_().div_(math.log1p(-rate)).floor_().long()  # elements kept before each that is dropped
    dropped = (gaps + 1).cumsum_(0).sub_(1).clamp_(max=size)
    factor = x.new_full((size + 1,), 1 / (1 - rate))  # the last one is for what is beyond the end
    factor.index_fill_(0, dropped, 0.0)
    return x * factor[:size].view(x.shape)
