"""make_env chooses the family and hands its settings on."""

import pytest

from worldline.envs.make import make_env
from worldline.errors import ConfigError


def test_settings_reach_the_environment():
    env = make_env("CartPole-v1", max_episode_steps=2)
    env.reset(seed=0)
    flags = [env.step([1.0, 0.0])[2:4] for _ in range(2)]
    assert flags == [(False, False), (False, True)]


def test_data_spec_is_that_of_the_environment():
    spec = make_env("Pendulum-v1").data_spec
    assert (spec.obs_shape, spec.action_dim, spec.action_type) == ((3,), 1, "continuous")


def test_unknown_setting_is_a_clear_error():
    with pytest.raises(ConfigError, match="gravitation"):
        make_env("CartPole-v1", gravitation=1)


def test_observations_are_chosen_by_name():
    env = make_env("robot:reach", observe="both", obs_keys=["ee_pos", "pixels"], image_size=8)
    assert env.data_spec.obs_shape == {"ee_pos": (3,), "pixels": (8, 8, 3)}
    with pytest.raises(ConfigError, match="Did you mean 'ee_pos'"):
        make_env("robot:reach", obs_keys=["ee_poss"])
    with pytest.raises(ConfigError, match="by name"):
        make_env("CartPole-v1", obs_keys=["ee_pos"])
