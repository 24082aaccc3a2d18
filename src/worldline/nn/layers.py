"""Linear, block-diagonal, normalisation and MLP layers with DreamerV3's initialisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldline.ops.linear import block_linear, linear
from worldline.ops.norm import rms_norm_silu

# What a standard normal cut at two deviations must be multiplied by to have unit deviation.
_TRUNCATED_STD = 1.1368


def truncated_normal_(tensor: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """Fill `tensor` with a normal of variance scale^2 / fan_in, cut at two deviations of the underlying normal."""
    with torch.no_grad():
        nn.init.trunc_normal_(tensor, 0.0, 1.0, -2.0, 2.0)
        return tensor.mul_(scale * _TRUNCATED_STD / math.sqrt(fan_in))


class Linear(nn.Module):
    """x @ weight.T + bias."""

    def __init__(self, in_features: int, out_features: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal_(torch.empty(out_features, in_features), in_features, scale))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., I]` to `[..., O]`."""
        return linear(x, self.weight, self.bias)


class BlockLinear(nn.Module):
    """A block-diagonal linear layer: G independent blocks of features."""

    def __init__(self, in_features: int, out_features: int, blocks: int) -> None:
        super().__init__()
        assert in_features % blocks == 0 == out_features % blocks, (in_features, out_features, blocks)
        # The reference counts the whole input as the fan, not one block of it.
        weight = torch.empty(blocks, in_features // blocks, out_features // blocks)
        self.weight = nn.Parameter(truncated_normal_(weight, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., G * I]` to `[..., G * O]`."""
        return block_linear(x, self.weight, self.bias)


class NormSiLU(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) with a scale and epsilon 1e-4, then SiLU; computed in float32."""

    eps = 1e-4

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., D]` to the same shape in float32."""
        return rms_norm_silu(x, self.scale, self.eps)


class Dense(nn.Module):
    """Linear, RMSNorm, SiLU: the block that every network here is made of."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = Linear(in_features, out_features)
        self.norm = NormSiLU(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., I]` to `[..., O]`."""
        activated: Tensor = self.norm(self.linear(x))
        return activated


class MLP(nn.Sequential):
    """`layers` Dense blocks of `units` each."""

    def __init__(self, in_features: int, units: int, layers: int) -> None:
        super().__init__(*(Dense(units if index else in_features, units) for index in range(layers)))
