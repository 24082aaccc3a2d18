"""Crafter, where it is installed."""

import numpy as np
import pytest

from worldline.envs.make import make_env

from .families import check_errors, check_replay, check_seeds

pytest.importorskip("crafter")
NOOP = np.eye(17)[0]


def test_images_and_achievements():
    env = make_env("crafter", image_size=(48, 64))
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((48, 64, 3), np.uint8)
    assert env.data_spec.action_sizes == (17,)
    assert len(env.step(NOOP)[4]["achievements"]) == 22


def test_death_terminates_and_length_truncates():
    env = make_env("crafter", length=3)
    env.reset(seed=0)
    assert [env.step(NOOP)[2:4] for _ in range(3)][-2:] == [(False, False), (False, True)]
    env.reset(seed=0)
    env.unwrapped._env._player.health = 0
    assert env.step(NOOP)[2:4] == (True, False)


def test_without_rewards():
    env = make_env("crafter:noreward")
    env.reset(seed=0)
    env.unwrapped._env._player.health = 5
    assert env.step(NOOP)[1] == 0.0


def test_seeds_and_replay():
    check_seeds("crafter")
    check_replay("crafter")


def test_errors(monkeypatch):
    check_errors("crafter:reward", "reward", "crafter", "crafter", "crafter", monkeypatch)
