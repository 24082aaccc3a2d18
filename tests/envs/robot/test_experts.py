"""Experts succeed, also when they are disturbed."""

import functools

import numpy as np
import pytest
import torch

from worldline.envs.make import make_env
from worldline.envs.robot.experts import EXPERTS, Expert
from worldline.envs.scripted import scripted_names, scripted_policy
from worldline.errors import ConfigError, DataError
from worldline.evaluation.rollout import collect_episodes

SETTINGS = [{}, {"randomization": {}}, {"action_noise": 0.25}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "randomized", "disturbed"])
@pytest.mark.parametrize("env_id", EXPERTS)
def test_it_succeeds(env_id, settings):
    make = functools.partial(make_env, env_id, **settings)
    assert scripted_names(env_id) == ("expert",)
    expert = scripted_policy("expert", env_id, make().data_spec)
    episodes = collect_episodes(make, expert, num_episodes=25, seed=1000, num_envs=25)
    assert sum(episode.meta["success"] for episode in episodes) >= 24


def test_recorded_actions_are_what_the_expert_asked_for_not_what_was_disturbed():
    expert = Expert("robot:reach")
    make = functools.partial(make_env, "robot:reach", action_noise=0.5)
    (episode,) = collect_episodes(make, expert, num_episodes=1)
    obs = {key: torch.from_numpy(value) for key, value in episode.obs.items()}
    np.testing.assert_allclose(episode.actions, expert.act(obs)[0].numpy(), atol=1e-6)


def test_errors():
    with pytest.raises(ConfigError, match="Did you mean 'robot:reach'"):
        Expert("robot:reech")
    with pytest.raises(DataError, match="by name"):
        Expert("robot:reach").act(torch.zeros(1, 20))
    with pytest.raises(DataError, match="'target_pos'"):
        Expert("robot:reach").act({"ee_pos": torch.zeros(1, 3)})
    obs = {f"{color}_pos": torch.zeros(1, 3) for color in ("red", "green", "blue", "yellow")}
    with pytest.raises(DataError, match="names 0 of"):
        Expert("robot:language_reach").act({**obs, "language": torch.zeros(1, 64, dtype=torch.uint8)})
