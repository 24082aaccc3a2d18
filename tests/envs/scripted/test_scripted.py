"""Scripted policies: the experts are experts, the mixed ones mixed, and each is found by name."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from worldline.envs.make import make_env
from worldline.envs.scripted import NAMES, SCRIPTED, lunar_lander, scripted_names, scripted_policy
from worldline.episode import Episode
from worldline.errors import ConfigError
from worldline.evaluation.rollout import collect_episodes

SETTINGS = {"LunarLander-v3": {"continuous": True}}
# Environment -> the least mean return of the expert, and what the least and the greatest returns of 60 mixed episodes
# lie below and above
RETURNS = {
    "CartPole-v1": (499.9, (60, 499)),
    "LunarLander-v3": (260, (-120, 270)),
    "Pendulum-v1": (-250, (-1000, -150)),
}


def collect(env_id: str, name: str, num_episodes: int, **settings: object) -> list[Episode]:
    make = functools.partial(make_env, env_id, **(settings or SETTINGS.get(env_id, {})))
    policy = scripted_policy(name, env_id, make().data_spec)
    return collect_episodes(make, policy, num_episodes=num_episodes, num_envs=20)


def test_every_environment_is_tested():
    robots = {env_id for env_id in SCRIPTED if env_id.startswith("robot:")}  # tests/envs/robot/test_experts.py
    assert RETURNS.keys() == SCRIPTED.keys() - robots
    assert {scripted_names(env_id) for env_id in RETURNS} == {("expert", "mixed")}
    assert {name for env_id in SCRIPTED for name in scripted_names(env_id)} == set(NAMES)
    assert scripted_names("Acrobot-v1") == ()


@pytest.mark.parametrize("env_id", RETURNS)
def test_the_expert(env_id: str):
    returns = [episode.rewards.sum() for episode in collect(env_id, "expert", 20)]
    assert np.mean(returns) > RETURNS[env_id][0]


@pytest.mark.parametrize("env_id", RETURNS)
def test_the_mixed_ones_are_of_all_qualities(env_id: str):
    returns = [episode.rewards.sum() for episode in collect(env_id, "mixed", 60)]
    low, high = RETURNS[env_id][1]
    assert min(returns) < low
    assert max(returns) > high
    middle = [value for value in returns if low + (high - low) / 4 < value < high - (high - low) / 4]
    assert len(middle) >= 6


def test_the_same_seed_gives_the_same_episodes():
    first, again = (collect("LunarLander-v3", "mixed", 5) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.obs, other.obs)


@pytest.mark.parametrize("continuous", [True, False])
def test_the_best_lander_is_gymnasiums(continuous: bool):
    import gymnasium as gym
    from gymnasium.envs.box2d.lunar_lander import heuristic

    generator = np.random.default_rng(0)
    obs = generator.normal(size=(500, 8)).astype(np.float32) * 0.3
    obs[:, 6:] = generator.random((500, 2)) < 0.2
    settings = {name: torch.full((500,), item.best) for name, item in lunar_lander.SETTINGS.items()}
    control = lunar_lander.control if continuous else lunar_lander.control_discrete
    env = gym.make("LunarLander-v3", continuous=continuous)
    expected = [heuristic(env, row) for row in obs]
    np.testing.assert_allclose(control(torch.from_numpy(obs), settings), expected, atol=1e-5)


def test_a_lander_of_discrete_actions():
    episodes = collect("LunarLander-v3", "expert", 5, continuous=False)
    assert episodes[0].actions.shape[1] == 4
    assert np.mean([episode.rewards.sum() for episode in episodes]) > 150


def test_what_there_is_not():
    spec = make_env("CartPole-v1").data_spec
    with pytest.raises(ConfigError, match=r"no scripted policy 'mxed'\. Did you mean 'mixed'"):
        scripted_policy("mxed", "CartPole-v1", spec)
    with pytest.raises(ConfigError, match=r"Acrobot-v1 has no scripted policy 'mixed'\. Those with some: CartPole-v1"):
        scripted_policy("mixed", "Acrobot-v1", spec)
    with pytest.raises(ConfigError, match="choose continuous actions; those of the environment are discrete"):
        scripted_policy("mixed", "Pendulum-v1", spec)
