"""Layers of TD-MPC2: linear, layer norm, then Mish or a simplicial norm (Hansen, Su & Wang 2024, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.ops.dropout import sparse_dropout
from worldline.ops.linear import linear
from worldline.ops.norm import layer_norm_mish, simplicial_norm

_INIT_STD = 0.02


class PlainLinear(nn.Module):
    """x @ weight.T + bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        weight = torch.empty(out_features, in_features)
        self.weight = nn.Parameter(nn.init.trunc_normal_(weight, std=_INIT_STD))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Map `[..., I]` to `[..., O]`; `frozen` keeps gradients from the parameters, not from `x`."""
        weight, bias = (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)
        return linear(x, weight, bias)


class NormedLinear(PlainLinear):
    """Linear, dropout if any, layer norm with scale and shift, Mish or the simplicial norm."""

    def __init__(self, in_features: int, out_features: int, *, dropout: float = 0.0, simplex: int = 0) -> None:
        super().__init__(in_features, out_features)
        self.scale = nn.Parameter(torch.ones(out_features))
        self.shift = nn.Parameter(torch.zeros(out_features))
        self.dropout, self.simplex = dropout, simplex

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Map `[..., I]` to `[..., O]` in float32."""
        x = super().forward(x, frozen=frozen)
        if self.dropout and self.training:
            x = sparse_dropout(x, self.dropout)
        scale, shift = (self.scale.detach(), self.shift.detach()) if frozen else (self.scale, self.shift)
        if not self.simplex:
            return layer_norm_mish(x, scale, shift)
        return simplicial_norm(F.layer_norm(x.float(), scale.shape, scale, shift), self.simplex)


class NormedMLP(nn.Module):
    """`layers - 1` hidden NormedLinear of `units`, then a plain linear layer or one with a simplicial norm."""

    def __init__(
        self,
        in_features: int,
        units: int,
        layers: int,
        out_features: int,
        *,
        dropout: float = 0.0,
        simplex: int = 0,
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for index in range(layers - 1):
            self.layers.append(NormedLinear(units if index else in_features, units, dropout=0.0 if index else dropout))
        last = units if layers > 1 else in_features
        output = NormedLinear(last, out_features, simplex=simplex) if simplex else PlainLinear(last, out_features)
        if zero_output:
            nn.init.zeros_(output.weight)
        self.layers.append(output)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Map `[..., I]` to `[..., O]` in float32; `frozen` keeps gradients from the parameters, not from `x`."""
        for layer in self.layers:
            x = layer(x, frozen=frozen)
        return x.float()
