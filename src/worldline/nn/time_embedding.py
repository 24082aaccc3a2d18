"""Times as vectors that a network can tell apart: sines and cosines of many frequencies (Vaswani et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Half sines, half cosines, of angles `t * scale * w` with w falling geometrically from 1 to 1 / max_period.

    Levels of a diffusion are counted (0, 1, 2, ...) and take `scale` 1; times in [0, 1] take 1,000, so that the angles
    are those of as many levels.
    """

    def __init__(self, features: int, *, scale: float = 1.0, max_period: float = 10_000.0) -> None:
        super().__init__()
        assert features in range(4, 1 << 16, 2), f"features is {features}; expected an even number from 4 on"
        half = features // 2
        exponents = torch.arange(half, dtype=torch.float32) / (half - 1)
        frequencies = scale * torch.exp(-math.log(max_period) * exponents)  # [D / 2]
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def forward(self, t: Tensor) -> Tensor:
        """Map times `[...]`, of any type, to `[..., D]` in [-1, 1], float32."""
        angles = t.to(self.frequencies.dtype)[..., None] * self.frequencies  # [..., D / 2]
        return torch.cat((angles.sin(), angles.cos()), -1)
