"""The nearest command that a shield lets pass.

Where the allowed set lies is known through one function alone: `excess`, which is at most 0 inside. In order:

1. A command that is allowed is its own answer, and so is one that only needs its horizon raised.
2. From the anchors, commands of which one is allowed by construction, go towards the command about as far as the way is
   open. From the nearest point that an allowed anchor leads to, go on to where bisection finds the boundary.
3. Walk along the boundary: replace `excess` by its tangent plane, whose gradient is two finite differences, and go
   towards the point of that half-plane that is nearest to the command, by at most a step's size. Take the nearest of
   several allowed points on this way and within; where there is none, halve the step.
4. Go straight towards the command once more.

Every point that is ever taken was found to be allowed, so the answer is, too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Points of commands `[B, N, 2]`, normalised -> how far each is beyond the allowed set, `[B, N]`; at most 0 inside
Excess = Callable[[Tensor], Tensor]

_BISECTIONS, _COARSE_BISECTIONS = 10, 4
_DIFFERENCE = 1e-2  # of finite differences, in normalised units
_LENGTHS = (1.0, 0.5, 0.25, 1.0, 0.5, 1.0)  # of the move to each point that is tried, as shares of the step
_DEPTHS = (0.0, 0.0, 0.0, 0.25, 0.25, 1.0)  # how far inside of it, in squares of the move: for boundaries that curve


def nearest_allowed(
    excess: Excess, command: Tensor, anchors: Tensor, low: Tensor, *, num_steps: int, step_size: float
) -> Tensor:
    """Return allowed commands near `command [B, 2]`, `[B, 2]`, all of them normalised.

    Args:
        excess: Tells what is allowed.
        command: What is wanted.
        anchors: `[B, M, 2]` of which one or more are allowed, for each command.
        low: `[2]`, the least value of either dimension.
        num_steps: How often to move along the boundary.
        step_size: The longest move.
    """
    wanted = command.maximum(low)
    is_allowed = excess(anchors) <= 0  # [B, M]; false where it is NaN
    reached = _towards(excess, anchors, wanted[:, None], num_bisections=_COARSE_BISECTIONS)
    best = _nearest(reached, is_allowed, wanted)[0]
    best = _towards(excess, best[:, None], wanted[:, None])[:, 0]
    size = torch.full_like(best[:, :1], step_size)  # [B, 1]
    for _ in range(num_steps):
        tried = _moves(excess, best, wanted, size).maximum(low)  # [B, K, 2]
        nearest, found = _nearest(tried, excess(tried) <= 0, wanted)
        is_nearer = found & (_distance(nearest, wanted) < _distance(best, wanted))
        best = torch.where(is_nearer[:, None], nearest, best)
        size = torch.where(is_nearer[:, None], size, size / 2)
    return _towards(excess, best[:, None], wanted[:, None])[:, 0]


def _nearest(points: Tensor, is_allowed: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest allowed one of `points [B, N, 2]` to each of `wanted [B, 2]`, and whether there is any."""
    distance = _distance(points, wanted[:, None]).masked_fill(~is_allowed, torch.inf)
    index = distance.argmin(1)
    return points[torch.arange(len(points), device=points.device), index], is_allowed.any(1)


def _towards(excess: Excess, inside: Tensor, wanted: Tensor, *, num_bisections: int = _BISECTIONS) -> Tensor:
    """Return the points up to which the ways from `inside [B, N, 2]` to `wanted [B, 1, 2]` are found to be allowed."""
    share, width = torch.zeros_like(inside[..., 0]), 1.0  # how much of the way is open, [B, N]
    whole = excess(wanted) <= 0  # [B, 1]
    for _ in range(num_bisections):
        width /= 2
        middle = torch.lerp(inside, wanted, (share + width)[..., None])
        share = torch.where(excess(middle) <= 0, share + width, share)
    return torch.where(whole[..., None], wanted, torch.lerp(inside, wanted, share[..., None]))


def _moves(excess: Excess, point: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    """Return points `[B, K, 2]` to try after `point [B, 2]`."""
    offsets = _DIFFERENCE * torch.cat((torch.zeros_like(point[:1]), torch.eye(2, device=point.device)))  # [3, 2]
    values = excess(point[:, None] + offsets)  # [B, 3]
    gradient = torch.nan_to_num((values[:, 1:] - values[:, :1]) / _DIFFERENCE)  # [B, 2]
    square = gradient.square().sum(-1, keepdim=True).clamp(min=1e-12)
    beyond = values[:, :1] + (gradient * (wanted - point)).sum(-1, keepdim=True)
    move = wanted - gradient * (beyond.clamp(min=0) / square) - point
    length = move.norm(dim=-1, keepdim=True)
    move = move * (size / length.clamp(min=1e-9)).clamp(max=1.0)
    inwards = -gradient * square.rsqrt() * move.square().sum(-1, keepdim=True)  # [B, 2]
    lengths, depths = (torch.tensor(shares, device=point.device)[:, None] for shares in (_LENGTHS, _DEPTHS))
    tried: Tensor = point[:, None] + lengths * move[:, None] + depths * inwards[:, None]
    return tried


def _distance(points: Tensor, wanted: Tensor) -> Tensor:
    return (points - wanted).square().sum(-1)
