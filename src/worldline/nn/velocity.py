"""A network for velocity fields, v(x, t | context), that gives the divergence of the field as well.

The divergence is exact: one tangent for each dimension of x is carried through the network beside x itself, all in one
matrix product a layer, without autograd. With D dimensions that costs 1 + D evaluations. It is meant for small D: a
command has 2.

What x is beyond the range of the data changes nothing in the network's output. So a field made of this network and a
known drift is that drift plus a constant far away, and a density that follows from it has tails of a known shape rather
than those that a network happens to extrapolate to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.nn.layers import Linear, truncated_normal_
from worldline.nn.time_embedding import TimeEmbedding
from worldline.ops.linear import linear, product

# Times are within about [0, 2]. The field must be smooth in time, so that few steps of a solver follow it.
_TIME_SCALE, _TIME_PERIOD = 8.0, 100.0
_NOISE_RANGE = 4.0  # deviations of the normal distribution at the other end


FieldWithDivergence = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]


class VelocityNet(nn.Module):
    """SiLU layers; the context enters the first one, the time all of them as an offset.

    Args:
        dims: D, of x and of its velocity.
        context_dims: C, of what the field depends on.
        units: Of every hidden layer.
        layers: How many hidden layers.
        time_features: Of the embedding of t.
    """

    low: Tensor
    high: Tensor

    def __init__(self, dims: int, context_dims: int, *, units: int, layers: int, time_features: int) -> None:
        super().__init__()
        self.units, self.num_layers = units, layers
        self.register_buffer("low", torch.full((dims,), -_NOISE_RANGE))
        self.register_buffer("high", torch.full((dims,), _NOISE_RANGE))
        self.embedding = TimeEmbedding(time_features, scale=_TIME_SCALE, max_period=_TIME_PERIOD)
        self.time_in, self.time_out = Linear(time_features, units), Linear(units, layers * units)
        self.context_in, self.context_out = Linear(context_dims, units), Linear(units, units)
        # Without biases, of which context and time have one for each layer
        self.first = nn.Parameter(truncated_normal_(torch.empty(units, dims), dims))
        self.hidden = nn.ParameterList(truncated_normal_(torch.empty(units, units), units) for _ in range(layers - 1))
        self.last = Linear(units, dims, scale=0.1)

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Take the range `[D]` of the data; beyond it, and beyond that of the noise, x changes nothing."""
        self.low.copy_(low.clamp(max=-_NOISE_RANGE))
        self.high.copy_(high.clamp(min=_NOISE_RANGE))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the velocity `[N, D]` at `x [N, D]`, times `t [N]`, given `context [N, C]`."""
        offsets = self.offsets(t).unbind(-2)
        x = x.clamp(self.low, self.high)
        y = F.silu(linear(x, self.first) + self.encode(context) + offsets[0])
        for weight, offset in zip(self.hidden, offsets[1:], strict=True):
            y = F.silu(linear(y, weight) + offset)
        velocity: Tensor = self.last(y)
        return velocity

    def offsets(self, t: Tensor) -> Tensor:
        """Return what times `[...]` add in each layer, `[..., L, U]`."""
        offsets: Tensor = self.time_out(F.silu(self.time_in(self.embedding(t))))
        unflattened: Tensor = offsets.unflatten(-1, (self.num_layers, self.units))
        return unflattened

    def encode(self, context: Tensor) -> Tensor:
        """Return what contexts `[..., C]` add in the first layer, `[..., U]`."""
        encoded: Tensor = self.context_out(F.silu(self.context_in(context)))
        return encoded

    def velocity(self, x: Tensor, offsets: Sequence[Tensor], encoded: Tensor) -> Tensor:
        """Return the velocity `[N, D]` at one time, without gradient.

        Args:
            x: `[N, D]`.
            offsets: Of that time, for each layer `[U]`.
            encoded: `[N, U]`, the contexts.
        """
        y: Tensor = torch.addmm(encoded, x.clamp(self.low, self.high), self.first.t()).add_(offsets[0])
        for weight, offset in zip(self.hidden, offsets[1:], strict=True):
            y = product(F.silu(y, inplace=True), weight, offset)
        velocity: Tensor = torch.addmm(self.last.bias, F.silu(y, inplace=True), self.last.weight.t())
        return velocity

    def with_divergence(self, encoded: Tensor) -> FieldWithDivergence:
        """Return what gives, for contexts `encoded [N, U]`, the velocity `[N, D]` at one time and its divergence `[N]`.

        It takes `x [N, D]` and `offsets` as `velocity` does, and has no gradient. A solver calls it many times, and for
        a few rows the time is that of operator calls: whatever does not depend on `x` is made here, once.
        """
        (units, dims), rows = self.first.shape, len(encoded)
        activated = encoded.new_empty(1 + dims, rows, units)  # of each layer: the units, and their tangents
        value, value_tangents, flat = activated[0], activated[1:], activated.view(-1, units)
        ones = torch.ones_like(encoded)
        low, high, first = self.low, self.high, self.first.t()
        # The tangent of dimension d is a column of the first weight. Where x is clamped it is zero all the way: see end
        first_tangents = first[:, None]  # [D, 1, U]
        hidden = list(self.hidden)
        last, last_bias, last_columns = self.last.weight.t(), self.last.bias, self.last.weight[:, :, None]

        def field(x: Tensor, offsets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            clamped = x.clamp(low, high)
            y = torch.addmm(encoded, clamped, first).add_(offsets[0])  # [N, U]
            tangents = first_tangents
            for weight, offset in zip(hidden, offsets[1:], strict=True):
                torch.mul(tangents, _silu_slope(ones, y), out=value_tangents)
                torch.ops.aten.silu.out(y, out=value)
                projected = product(flat, weight).view_as(activated)
                y, tangents = projected[0].add_(offset), projected[1:]
            slopes = torch.bmm(torch.mul(tangents, _silu_slope(ones, y)), last_columns)  # [D, N, 1]
            velocity = torch.addmm(last_bias, F.silu(y, inplace=True), last)
            return velocity, slopes[..., 0].mul_((clamped == x).t()).sum(0)

        return field


def _silu_slope(ones: Tensor, y: Tensor) -> Tensor:
    """Return the derivative of silu at `y [N, U]`, in one pass; `ones` is of its shape."""
    slope: Tensor = torch.ops.aten.silu_backward(ones, y)
    return slope
