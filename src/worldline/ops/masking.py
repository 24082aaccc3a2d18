"""Reductions that skip what is not real."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` (same shape) is True, as a scalar; 0 if it is True nowhere."""
    assert values.shape == mask.shape, f"values {tuple(values.shape)} do not match mask {tuple(mask.shape)}"
    weights = mask.to(values.dtype)
    # `where` rather than a product: padding may hold anything, and 0 * inf is NaN.
    return values.where(mask, values.new_zeros(())).sum() / weights.sum().clamp(min=1)


def extend(values: Tensor, mask: Tensor) -> Tensor:
    """Return `values [B, T, ...]`, in which the first and the last real row are repeated beyond them.

    Args:
        values: Rows, of which those where `mask` is False may hold anything.
        mask: `[B, T]`, True in one piece of each window; a window without any real row becomes zero.
    """
    assert mask.shape == values.shape[:2], f"mask {tuple(mask.shape)} does not lead {tuple(values.shape)}"
    rows = torch.arange(mask.shape[1], device=mask.device)
    first = mask.int().argmax(1, keepdim=True)  # [B, 1]
    nearest = rows.clamp(min=first).minimum(first + mask.sum(1, keepdim=True) - 1).clamp(min=0)  # [B, T]
    index = torch.arange(len(mask), device=mask.device)[:, None]
    filled = values[index, nearest]  # [B, T, ...]
    lost = ~mask.any(1)
    return filled.masked_fill(lost.view(-1, *(1,) * (values.ndim - 1)), 0)
