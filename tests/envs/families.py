"""What every environment family is tested for."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from worldline.envs.make import make_env, make_vec_env
from worldline.errors import ConfigError, MissingPackageError


def check_replay(env_id, num_steps=30, **settings):
    """Check that an environment elsewhere, given the seeds and the actions, comes to the same observations."""
    env = make_vec_env(env_id, 2, **settings)
    env.reset(seed=5)
    generator = np.random.default_rng(0)
    actions = generator.random((num_steps, 2, env.data_spec.action_dim)).astype(np.float32)
    for action in actions:
        obs, _, terminations, truncations, _ = env.step(action)
        assert not terminations.any()
        assert not truncations.any()
    other = make_vec_env(env_id, 2, **settings)
    other.reset(seed=99)
    other.step(actions[0])
    restored = other.restore([(5, actions[:, 0]), (6, actions[:, 1])], next_seed=7)
    for place, (seen, rewards) in enumerate(restored):
        np.testing.assert_array_equal(seen[-1], obs[place])
        assert len(rewards) == num_steps
    np.testing.assert_equal(other.step(actions[0])[:4], env.step(actions[0])[:4])
    env.close()
    other.close()


def check_seeds(env_id):
    """Check that the seed decides how an episode begins."""
    env = make_env(env_id)
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    env.close()


def check_errors(env_id, near, package, module, extra, monkeypatch):
    """Check that an unknown name gets the nearest one, and a missing package its pip line."""
    with pytest.raises(ConfigError, match=near):
        make_env(env_id + "x")
    with pytest.raises(ConfigError, match="colour"):
        make_env(env_id, colour="red")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf"'{package}'.*pip install 'worldline\[{extra}\]'"):
        make_env(env_id)
