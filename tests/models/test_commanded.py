"""CommandedPolicy: what a model is told as an episode goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldline.create import create_model
from worldline.errors import ConfigError
from worldline.models.commanded import CommandedPolicy
from worldline.protocols import Policy, Rewarded, Samples


class Listener:
    """Remembers what it was told."""

    def __init__(self, low: tuple[float, float], high: tuple[float, float]) -> None:
        self.command_range = (torch.tensor(low), torch.tensor(high))
        self.told: list[list[list[float]]] = []

    def choose(self, obs: Tensor, commands: Tensor, *, deterministic: bool = False) -> Tensor:
        self.told.append(commands.tolist())
        return torch.zeros(len(commands), 1)


def play(policy: CommandedPolicy, rewards: list[list[float]], first: list[list[bool]] | None = None) -> None:
    """Take a step for each row of rewards `[N]`."""
    state = None
    for step, row in enumerate(rewards):
        is_first = torch.tensor([step == 0] * len(row) if first is None else first[step])
        _, state = policy.act(torch.zeros(len(row), 4), state, is_first=is_first)
        state = policy.after_step(state, torch.tensor(row))


def test_commands_run_down():
    model = Listener((1, -100), (50, 100))
    policy = CommandedPolicy(model, (3, 10))
    assert isinstance(policy, Policy)
    assert isinstance(policy, Rewarded)
    play(policy, [[4.0, -1.0]] * 5)
    # At least one step is left, and there is no debt of steps: what is left of the return goes on changing.
    assert [told[0] for told in model.told] == [[3, 10], [2, 6], [1, 2], [1, -2], [1, -6]]
    assert [told[1] for told in model.told] == [[3, 10], [2, 11], [1, 12], [1, 13], [1, 14]]


def test_an_episode_that_begins_is_told_anew():
    model = Listener((1, -100), (50, 100))
    play(CommandedPolicy(model, (3, 10)), [[4.0, 4.0]] * 3, first=[[True, True], [False, False], [False, True]])
    assert model.told == [[[3, 10], [3, 10]], [[2, 6], [2, 6]], [[1, 2], [3, 10]]]


def test_nobody_is_told_what_the_data_do_not_hold():
    model = Listener((2, -5), (50, 100))
    play(CommandedPolicy(model, (80, 110)), [[4.0], [120.0], [0.0]])
    # What is left is counted without the bound: after a return of 4, 106 of 110 are left.
    assert model.told == [[[50, 100]], [[50, 100]], [[50, -5]]]


def test_a_model_that_knows_no_range_is_told_everything():
    model = Listener((-torch.inf, -torch.inf), (torch.inf, torch.inf))
    play(CommandedPolicy(model, (2, 1e6)), [[0.0], [0.0], [0.0]])
    assert model.told == [[[2, 1e6]], [[1, 1e6]], [[1, 1e6]]]


@pytest.mark.parametrize("command", [(0, 10), (200,), (1, np.nan), (np.inf, 3), (1, 2, 3)])
def test_what_is_no_command(command: tuple[float, ...]):
    with pytest.raises(ConfigError, match="A command is"):
        CommandedPolicy(Listener((1, 1), (2, 2)), command)


def test_what_is_not_clipped_is_passed_on_but_for_the_last_step():
    model = Listener((2, -5), (50, 100))
    play(CommandedPolicy(model, (2, 110), clips=False), [[4.0], [120.0], [0.0]])
    assert model.told == [[[2, 110]], [[1, 106]], [[1, -14]]]


def test_the_family_says_how_its_policy_is_meant_to_act():
    model = create_model("udrl:small", obs_shape=(4,), action_dim=2)
    assert model.samples_actions
    assert not create_model("bc:small", obs_shape=(4,), action_dim=2).samples_actions
    policy = CommandedPolicy(model, (3, 10))
    assert isinstance(policy, Samples)
    assert policy.samples_actions
    listener = Listener((1, 1), (2, 2))
    listener.samples_actions = False
    assert not CommandedPolicy(listener, (3, 10)).samples_actions
