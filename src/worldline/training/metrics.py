"""Metrics leave the device in one transfer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def to_floats(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars `[]` (or one-element tensors) as floats, copied from the device all at once."""
    if not metrics:
        return {}
    values = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
    return dict(zip(metrics, values.tolist(), strict=True))
