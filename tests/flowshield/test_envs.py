from __future__ import annotations

import importlib.util

import gymnasium as gym
import numpy as np
import pytest

from flowshield import envs
from flowshield.envs import ContinuousEnvWrapper, get_env_info, list_envs, make_env, register_env
from worldline.errors import ConfigError, DataError, MissingPackageError


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "_ENVS", dict(envs._ENVS))


def test_lunar_lander():
    env = make_env("lunarlander")
    assert isinstance(env, gym.Env)
    assert (env.state_dim, env.action_dim, env.max_episode_steps) == (8, 2, 1000)
    state, _ = env.reset(seed=0)
    assert state.shape == (8,)
    next_state, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    assert next_state.shape == (8,)
    assert (type(terminated), type(truncated)) == (bool, bool)
    assert np.isfinite(reward)
    env.close()
    assert get_env_info("lunarlander") == {"state_dim": 8, "action_dim": 2, "max_steps": 1000}


def test_settings_reach_the_environment():
    assert make_env("lunarlander", max_episode_steps=5).max_episode_steps == 5
    with pytest.raises(ConfigError, match="cannot make"):
        make_env("lunarlander", colour="red")


def test_states_are_normalised_by_the_range_of_their_space():
    env = make_env("lunarlander")
    box = env.observation_space
    np.testing.assert_allclose(env.normalize_state(box.low), -np.ones(8))
    np.testing.assert_allclose(env.normalize_state(box.high), np.ones(8))
    states = np.stack([box.sample() for _ in range(3)])
    np.testing.assert_allclose(env.denormalize_state(env.normalize_state(states)), states, rtol=1e-5, atol=1e-5)


def test_numbers_without_a_range_stay():
    class Unbounded(gym.Env):
        observation_space = gym.spaces.Box(np.array([-np.inf, -3.4e38, -2, 1]), np.array([np.inf, 3.4e38, 4, 1]))
        action_space = gym.spaces.Box(-1, 1, (1,))

    env = ContinuousEnvWrapper(Unbounded())
    np.testing.assert_allclose(env.normalize_state(np.array([5.0, 5.0, 4.0, 1.0])), [5, 5, 1, 1])
    assert env.max_episode_steps is None


def test_an_environment_of_one_s_own():
    register_env("pendulum", lambda **settings: gym.make("Pendulum-v1", **settings))
    assert list_envs() == ["lunarlander", "highway", "pendulum"]
    env = make_env("pendulum", g=9.81)
    assert (env.state_dim, env.action_dim, env.max_episode_steps) == (3, 1, 200)
    with pytest.raises(ConfigError, match="already"):
        register_env("pendulum", ContinuousEnvWrapper)
    with pytest.raises(ConfigError, match="must make an environment"):
        register_env("other", 3)  # type: ignore[arg-type]


def test_matrices_become_vectors():
    class Matrix(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (5, 5))
        action_space = gym.spaces.Box(-1, 1, (2,))

        def reset(self, *, seed=None, options=None):
            return np.ones((5, 5), np.float32), {}

    register_env("matrix", Matrix)
    env = make_env("matrix")
    assert env.state_dim == 25
    assert env.reset()[0].shape == (25,)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="Did you mean 'lunarlander'"):
        make_env("lunarlandr")
    register_env("cartpole", lambda: gym.make("CartPole-v1"))
    with pytest.raises(DataError, match="expected boxes of numbers"):
        make_env("cartpole")


def test_highway(monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("highway_env"):
        env = make_env("highway")
        assert (env.state_dim, env.action_dim) == (25, 2)
        assert env.reset(seed=0)[0].shape == (25,)
        return
    with pytest.raises(MissingPackageError, match=r"pip install 'worldline\[highway\]'"):
        make_env("highway")
