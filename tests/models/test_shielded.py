from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from worldline.errors import ConfigError
from worldline.models.commanded import CommandedPolicy
from worldline.models.shielded import ShieldedPolicy


class Obedient:
    """A model whose action is the command that it is told."""

    samples_actions = True
    command_range = (torch.tensor([1.0, -100.0]), torch.tensor([100.0, 100.0]))

    def choose(self, obs: Any, commands: Tensor, *, deterministic: bool = False) -> Tensor:
        return commands.clone()


class Ceiling:
    """A shield that lets no return above the observation pass, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def project(self, state: Tensor, command: Tensor) -> Tensor:
        self.asked.append(len(command))
        return torch.stack((command[:, 0], command[:, 1].minimum(state[:, 0])), 1)

    def score(self, state: Tensor, command: Tensor) -> Tensor:
        raise NotImplementedError

    state_score = is_ood = score


def shielded(interval: int = 0) -> tuple[ShieldedPolicy, Ceiling]:
    shield = Ceiling()
    return ShieldedPolicy(CommandedPolicy(Obedient(), (10, 50.0)), shield, interval=interval), shield


def test_commands_are_projected_where_episodes_begin():
    policy, shield = shielded()
    obs = torch.tensor([[20.0], [80.0]])
    told, state = policy.act(obs)
    assert told.tolist() == [[10.0, 20.0], [10.0, 50.0]]
    state = policy.after_step(state, torch.tensor([5.0, 1.0]))
    told, state = policy.act(torch.zeros(2, 1), state, is_first=torch.tensor([False, False]))
    assert told.tolist() == [[9.0, 15.0], [9.0, 49.0]]  # runs down from what was allowed
    state = policy.after_step(state, torch.zeros(2))
    told, state = policy.act(torch.tensor([[30.0], [0.0]]), state, is_first=torch.tensor([True, False]))
    assert told.tolist() == [[10.0, 30.0], [8.0, 49.0]]
    assert shield.asked == [2, 1]


def test_what_is_left_is_projected_at_the_interval():
    policy, shield = shielded(interval=2)
    obs, state = torch.tensor([[20.0]]), None
    told = []
    for _ in range(5):
        action, state = policy.act(obs, state)
        told.append(action[0].tolist())
        state = policy.after_step(state, torch.tensor([-1.0]))
        obs = obs - 1
    assert told == [[10.0, 20.0], [9.0, 21.0], [8.0, 18.0], [7.0, 19.0], [6.0, 16.0]]
    assert len(shield.asked) == 3


def test_a_negative_interval_is_refused():
    with pytest.raises(ConfigError, match="from 0 on"):
        shielded(interval=-1)


def test_it_acts_as_its_model_is_meant_to():
    policy, _ = shielded()
    assert policy.samples_actions
    policy.policy.model.samples_actions = False
    assert not policy.samples_actions
