"""Reductions that skip what is not real."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` (same shape) is True, as a scalar; 0 if it is True nowhere."""
    assert values.shape == mask.shape, f"values {tuple(values.shape)} do not match mask {tuple(mask.shape)}"
    weights = mask.to(values.dtype)
    # `where` rather than a product: padding may hold anything, and 0 * inf is NaN.
    return values.where(mask, values.new_zeros(())).sum() / weights.sum().clamp(min=1)
