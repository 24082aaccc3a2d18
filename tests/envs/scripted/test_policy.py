"""ScriptedPolicy: settings of each episode, delays, random actions, repetition."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from worldline.envs.scripted.policy import MAX_DELAY, ScriptedPolicy, Setting
from worldline.episode import DataSpec
from worldline.errors import ConfigError

SPEC = DataSpec(obs_shape=(2,), action_dim=1, action_type="continuous", action_sizes=())
DISCRETE = DataSpec(obs_shape=(2,), action_dim=3, action_type="discrete", action_sizes=(3,))
OFF = {name: Setting(best=0.0, low=0.0, high=0.0) for name in ("random", "delay", "change")}


def echo(obs: Tensor, settings: Mapping[str, Tensor]) -> Tensor:
    return (obs[:, 0] * settings["gain"])[:, None]


def act(policy: ScriptedPolicy, rows: list[list[float]], first: list[list[bool]], **arguments) -> Tensor:
    """Return the actions `[T, N, A]` of an episode's steps for the first number of each observation."""
    state, actions = None, []
    for row, is_first in zip(rows, first, strict=True):
        obs = torch.tensor([[value, 0.0] for value in row])
        action, state = policy.act(obs, state, is_first=torch.tensor(is_first), **arguments)
        actions.append(action)
    return torch.stack(actions)


def test_settings_last_an_episode():
    torch.manual_seed(0)
    policy = ScriptedPolicy(echo, {"gain": Setting(best=1.0, low=-0.9, high=0.0, share=1.0), **OFF}, SPEC)
    first = [[True, True], [False, False], [False, True], [False, False]]
    actions = act(policy, [[1.0, 1.0]] * 4, first)[:, :, 0]
    assert actions[0, 0] == actions[1, 0] == actions[2, 0] == actions[3, 0]
    assert actions[0, 1] == actions[1, 1] != actions[2, 1] == actions[3, 1]
    assert actions[0, 0] != actions[0, 1]


def test_settings_are_drawn_from_their_range():
    torch.manual_seed(0)
    settings = {"gain": Setting(best=2.0, low=-1.0, high=3.0, share=0.25), **OFF}
    first = [[True] * 4000]
    gains = act(ScriptedPolicy(echo, settings, SPEC), [[1.0] * 4000], first).flatten()
    assert float((gains == 2.0).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert 1.0 <= gains.min() < 1.3
    assert 4.5 < gains.max() <= 5.0
    best = act(ScriptedPolicy(echo, settings, SPEC, worst=0.0), [[1.0] * 4000], first)
    assert (best == 2.0).all()


def test_settings_may_change_on_the_way():
    torch.manual_seed(0)
    settings = {"gain": Setting(best=0.0, low=0.0, high=1.0, share=1.0), **OFF}
    settings["change"] = Setting(best=0.25, low=0.0, high=0.0)
    actions = act(ScriptedPolicy(echo, settings, SPEC), [[1.0] * 200] * 51, [[True] * 200] + [[False] * 200] * 50)
    changes = (actions[1:] != actions[:-1]).float()
    assert float(changes.mean()) == pytest.approx(0.25, abs=0.02)  # of 10,000 steps


def test_delayed_actions_are_those_decided_on_before():
    settings = {"gain": Setting(best=1.0, low=0.0, high=0.0), **OFF, "delay": Setting(best=2.0, low=0.0, high=0.0)}
    policy = ScriptedPolicy(echo, settings, SPEC)
    first = [[True]] + [[False]] * 5
    # At the start of an episode there is nothing earlier than its first decision.
    assert act(policy, [[0.1], [0.2], [0.3], [0.4], [0.5], [0.6]], first).flatten().tolist() == pytest.approx(
        [0.1, 0.1, 0.1, 0.2, 0.3, 0.4]
    )
    first[3] = [True]
    assert act(policy, [[0.1], [0.2], [0.3], [0.4], [0.5], [0.6]], first).flatten().tolist() == pytest.approx(
        [0.1, 0.1, 0.1, 0.4, 0.4, 0.4]
    )
    assert MAX_DELAY >= 2


def test_random_actions():
    torch.manual_seed(0)
    settings = {"gain": Setting(best=0.0, low=0.0, high=0.0), **OFF, "random": Setting(best=0.4, low=0.0, high=0.0)}
    policy = ScriptedPolicy(echo, settings, SPEC)
    rows, first = [[1.0] * 4000], [[True] * 4000]
    actions = act(policy, rows, first)
    assert float((actions != 0).float().mean()) == pytest.approx(0.4, abs=0.03)
    assert actions.abs().max() <= 1
    assert (act(policy, rows, first, deterministic=True) == 0).all()


def test_discrete_actions_are_one_hot():
    torch.manual_seed(0)
    policy = ScriptedPolicy(lambda obs, settings: obs[:, 0].long(), OFF, DISCRETE)
    assert act(policy, [[0.0, 2.0]], [[True, True]]).tolist() == [[[1, 0, 0], [0, 0, 1]]]


def test_dict_observations_are_refused():
    with pytest.raises(ConfigError, match="observes one vector"):
        ScriptedPolicy(echo, OFF, SPEC).act({"state": torch.zeros(1, 2), "pixels": torch.zeros(1, 4, 4, 3)})
