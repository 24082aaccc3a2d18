"""What sequences of actions are worth to a world model."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Imagined(Protocol):
    """An imagined future: `models.base.Trajectory`."""

    @property
    def rewards(self) -> Tensor: ...  # [H, B]

    @property
    def continues(self) -> Tensor: ...  # [H, B]

    @property
    def states(self) -> Any: ...  # leaves [H, B, ...]


class PlanningModel(Protocol):
    """What planning needs of a world model, whose states have `map(function)`, which applies to every leaf."""

    def imagine(self, state: Any, actions: Tensor, /) -> Imagined:
        """Return what `actions [H, B, A]` lead to from `state` (leaves `[B, ...]`)."""
        ...

    def state_value(self, state: Any, /, *, deterministic: bool) -> Tensor:
        """Return `[B]`, the discounted return that the policy expects from `state` (leaves `[B, ...]`)."""
        ...

    def discount(self, state: Any, /) -> Tensor:
        """Return `[B]` or `[]`, what a reward one step later is worth."""
        ...


def sequence_values(model: PlanningModel, state: Any, actions: Tensor, *, deterministic: bool = False) -> Tensor:
    """Return the discounted return of sequences of actions: imagined rewards, then the value of where they lead.

    After a step that more likely than not ends the episode, nothing counts.

    Args:
        model: A world model with a value and a discount.
        state: Leaves `[N, ...]`.
        actions: `[H, N, S, A]`, S sequences for each of N environments.
        deterministic: Whether the policy's value is that of its most likely action.

    Returns:
        `[N, S]`.
    """
    assert actions.ndim == 4, f"actions must be [H, N, S, A]; got {tuple(actions.shape)}"
    _, num, samples, _ = actions.shape
    start = state.map(lambda leaf: leaf.repeat_interleave(samples, 0))
    future = model.imagine(start, actions.flatten(1, 2))
    final = future.states.map(lambda leaf: leaf[-1])
    weight = torch.ones_like(future.rewards[0])
    discount = model.discount(start)
    total = torch.zeros_like(weight)
    for rewards, continues in zip(future.rewards, future.continues, strict=True):
        total += weight * rewards
        weight = weight * discount * (continues >= 0.5)
    total += weight * model.state_value(final, deterministic=deterministic)
    return total.view(num, samples)
