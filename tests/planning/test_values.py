from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from worldline.planning import sequence_values


@dataclasses.dataclass
class Position:
    x: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Position:
        return Position(function(self.x))


@dataclasses.dataclass
class Future:
    rewards: Tensor
    continues: Tensor
    states: Any


class Line:
    """A point that actions move; the reward is where it is, the value ten times that, the end beyond 2."""

    def imagine(self, state: Position, actions: Tensor) -> Future:
        x = state.x + actions[..., 0].cumsum(0)
        return Future(rewards=x, continues=torch.where(x > 2, 0.4, 0.6), states=Position(x))

    def state_value(self, state: Position, *, deterministic: bool) -> Tensor:
        return 10 * state.x + float(deterministic)

    def discount(self, state: Position) -> Tensor:
        return torch.tensor(0.5)


def test_by_hand():
    actions = torch.tensor([[1.0, 1.0], [3.0, -1.0]])  # [N, H]: of a second sequence the same, in the first's place
    sequences = torch.stack([actions, actions.flip(0)], 1).permute(2, 0, 1)[..., None]  # [H, N, S, 1]
    values = sequence_values(Line(), Position(torch.zeros(2)), sequences)
    lasting = 1 + 0.5 * 2 + 0.25 * 20
    ending = 3.0  # nothing after the first step
    assert values.tolist() == [[lasting, ending], [ending, lasting]]
    deterministic = sequence_values(Line(), Position(torch.zeros(2)), sequences, deterministic=True)
    assert deterministic.tolist() == [[lasting + 0.25, ending], [ending, lasting + 0.25]]


def test_each_environment_starts_from_its_own_state():
    values = sequence_values(Line(), Position(torch.tensor([0.0, 1.0])), torch.zeros(1, 2, 3, 1))
    assert values.tolist() == [[0, 0, 0], [6, 6, 6]]


def test_shapes_are_checked():
    with pytest.raises(AssertionError, match=r"actions must be \[H, N, S, A\]; got \(1, 2, 3\)"):
        sequence_values(Line(), Position(torch.zeros(2)), torch.zeros(1, 2, 3))
