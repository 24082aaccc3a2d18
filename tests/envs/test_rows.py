"""RowEnv steps exactly as the environment it wraps."""

import gymnasium as gym
import numpy as np

from worldline.envs.rows import RowEnv


class Flags(gym.Env):
    """Returns the flags that its action names."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float64)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {"options": options}

    def step(self, action):
        return np.ones(1), 2, np.bool_(action & 1), np.bool_(action & 2), {"action": action}


def test_flags_are_never_confused():
    env = RowEnv(Flags())
    for action in range(4):
        obs, reward, terminated, truncated, info = env.step(np.eye(4, dtype=np.float32)[action])
        assert (terminated, truncated) == (bool(action & 1), bool(action & 2))
        assert (obs.dtype, reward, info["action"]) == (np.float32, 2, action)


def test_reset_passes_seed_and_options():
    obs, info = RowEnv(Flags()).reset(seed=3, options={"a": 1})
    assert obs.tolist() == [0]
    assert info == {"options": {"a": 1}}


def test_same_steps_as_the_bare_environment():
    bare, rows = gym.make("Pendulum-v1"), RowEnv(gym.make("Pendulum-v1"))
    np.testing.assert_array_equal(bare.reset(seed=5)[0], rows.reset(seed=5)[0])
    for torque in (-2.0, 0.5, 2.0):
        expected = bare.step(np.array([torque], np.float32))
        got = rows.step(np.array([torque / 2.0], np.float32))
        np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
        assert got[1:4] == expected[1:4]


def test_spaces_describe_what_is_exchanged():
    env = RowEnv(gym.make("CartPole-v1"))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert env.action_space.shape == (env.data_spec.action_dim,) == (2,)
