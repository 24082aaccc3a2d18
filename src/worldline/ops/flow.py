"""Flow matching: the conditional path, its velocity, and integration of ordinary differential equations.

Lipman, Chen, Ben-Hamu, Nickel & Le, "Flow Matching for Generative Modeling" (2023), section 4.1: the path of
conditional optimal transport (equations 20 to 23), from noise x_0 ~ N(0, I) at t = 0 to data x_1 at t = 1:

    x_t = (1 - (1 - sigma_min) t) x_0 + t x_1,    u_t = x_1 - (1 - sigma_min) x_0

A network that regresses u_t on x_t and t is the velocity of a flow that carries the noise to the data.

`x [*L, ...]` is of any shape and `t [*L]` has its leading dimensions, or none: commands `[B, 2]` and chunks of actions
`[B, H, A]` both go with a `t [B]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Solver = Literal["euler", "midpoint", "rk4"]

# How often each solver asks for the velocity in one step
EVALUATIONS: dict[Solver, int] = {"euler": 1, "midpoint": 2, "rk4": 4}


def interpolate(data: Tensor, noise: Tensor, t: Tensor, *, sigma_min: float = 0.0) -> Tensor:
    """Return x_t between `noise` (t = 0) and `data` (t = 1), both `[*L, ...]`, at times `t [*L]` in [0, 1]."""
    assert data.shape == noise.shape, f"data {tuple(data.shape)} and noise {tuple(noise.shape)} differ"
    assert t.shape == data.shape[: t.ndim], f"t {tuple(t.shape)} does not lead the shape {tuple(data.shape)}"
    time = t.view(*t.shape, *(1,) * (data.ndim - t.ndim))
    return (1 - (1 - sigma_min) * time) * noise + time * data


def target_velocity(data: Tensor, noise: Tensor, *, sigma_min: float = 0.0) -> Tensor:
    """Return u_t, the velocity of `interpolate`, which is the same at all times."""
    assert data.shape == noise.shape, f"data {tuple(data.shape)} and noise {tuple(noise.shape)} differ"
    return data - (1 - sigma_min) * noise


def even_times(num_steps: int, *, start: float = 0.0, end: float = 1.0) -> list[float]:
    """Return the `num_steps + 1` times that divide the way from `start` to `end` evenly.

    >>> even_times(4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    assert num_steps >= 1, f"num_steps is {num_steps}"
    return [start + (end - start) * index / num_steps for index in range(num_steps + 1)]


def stage_times(times: Sequence[float], solver: Solver) -> list[float]:
    """Return the times at which `integrate` asks for the velocity, each once, in the order of the steps."""
    stages = {"euler": (0.0,), "midpoint": (0.0, 0.5), "rk4": (0.0, 0.5, 1.0)}[solver]
    return list(dict.fromkeys(_between(start, end, share) for start, end in pairwise(times) for share in stages))


def integrate(
    velocity: Callable[[float, Tensor], Tensor], x: Tensor, times: Sequence[float], solver: Solver = "rk4"
) -> Tensor:
    """Return the solution of dx/dt = velocity(t, x) at the last of `times`, from `x` at the first.

    Args:
        velocity: Of the shape of `x`, at a time.
        x: Of any shape.
        times: Ends of the steps, in the order they are taken; falling times integrate backwards.
        solver: "euler" (error of first order), "midpoint" (second) or "rk4" (the classic one of fourth order).
    """
    step = {"euler": _euler, "midpoint": _midpoint, "rk4": _rk4}[solver]
    for start, end in pairwise(times):
        x = step(velocity, x, start, end)
    return x


def _between(start: float, end: float, share: float) -> float:
    """Return the time at a share of a step: at 0 and 1 its ends to the last bit, so that times can be looked up."""
    return end if share == 1.0 else start + (end - start) * share


def _euler(velocity: Callable[[float, Tensor], Tensor], x: Tensor, start: float, end: float) -> Tensor:
    return torch.add(x, velocity(start, x), alpha=end - start)


def _midpoint(velocity: Callable[[float, Tensor], Tensor], x: Tensor, start: float, end: float) -> Tensor:
    middle, size = _between(start, end, 0.5), end - start
    half_way = torch.add(x, velocity(start, x), alpha=size / 2)
    return torch.add(x, velocity(middle, half_way), alpha=size)


def _rk4(velocity: Callable[[float, Tensor], Tensor], x: Tensor, start: float, end: float) -> Tensor:
    middle, size = _between(start, end, 0.5), end - start
    first = velocity(start, x)
    second = velocity(middle, torch.add(x, first, alpha=size / 2))
    third = velocity(middle, torch.add(x, second, alpha=size / 2))
    fourth = velocity(end, torch.add(x, third, alpha=size))
    total = torch.add(first, second, alpha=2).add_(third, alpha=2).add_(fourth)
    return torch.add(x, total, alpha=size / 6)
