from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from flowshield.training import DataCollector, TrajectoryDataset
from worldline.envs.scripted import scripted_policy
from worldline.envs.spaces import spec_of
from worldline.errors import ConfigError, DataError, FileError


def cart_pole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1")


def test_random_episodes(tmp_path: Path):
    collector = DataCollector(cart_pole())
    dataset = collector.collect(n_episodes=5)
    assert dataset.buffer.num_episodes == 5
    assert dataset.buffer.spec.action_type == "discrete"
    assert dataset.rewards.sum() == len(dataset)
    collector.save(str(tmp_path / "new folder" / "data.npz"))
    saved = TrajectoryDataset(tmp_path / "new folder" / "data.npz")
    np.testing.assert_array_equal(saved.states, dataset.states)


def test_calls_go_on_and_are_saved_together(tmp_path: Path):
    collector = DataCollector(cart_pole(), seed=5)
    first, second = collector.collect(2), collector.collect(3)
    seeds = [episode.meta["seed"] for part in (first, second) for episode in part.episodes()]
    assert seeds == [5, 6, 7, 8, 9]
    collector.save(tmp_path / "data.npz")
    assert TrajectoryDataset(tmp_path / "data.npz").buffer.num_episodes == 5


def test_the_same_seed_gives_the_same_episodes():
    states = [DataCollector(cart_pole()).collect(2).states for _ in range(2)]
    np.testing.assert_array_equal(*states)


def test_a_function_of_the_state():
    seen = []

    def policy(state):
        seen.append(state)
        return int(state[2] > 0)

    dataset = DataCollector(cart_pole(), policy).collect(1)
    np.testing.assert_array_equal(dataset.states, np.stack(seen))
    np.testing.assert_array_equal(dataset.actions.argmax(1), dataset.states[:, 2] > 0)
    assert len(dataset) > 25  # it holds the pole up for longer than chance does


def test_actions_of_the_environment_s_own_range():
    """Pendulum's torques are up to 2; rows are within [-1, 1]."""
    dataset = DataCollector(gym.make("Pendulum-v1", max_episode_steps=3), lambda state: np.array([1.5])).collect(1)
    np.testing.assert_allclose(dataset.actions, np.full((3, 1), 0.75))


def test_a_policy_of_worldline_s():
    env = cart_pole()
    spec = spec_of(env.observation_space, env.action_space)
    dataset = DataCollector(env, scripted_policy("expert", "CartPole-v1", spec)).collect(1)
    assert len(dataset) == 500


def test_the_environment_stays_open():
    closed = []
    env = cart_pole()
    env.unwrapped.close = lambda: closed.append(True)
    DataCollector(env).collect(1)
    assert closed == []


def test_watching_needs_a_window(tmp_path: Path):
    collector = DataCollector(cart_pole())
    with pytest.raises(ConfigError, match='render_mode="human"'):
        collector.collect(1, render=True)
    with pytest.raises(DataError, match="Nothing was collected yet"):
        collector.save(tmp_path / "data.npz")
    with pytest.raises(ConfigError, match="A policy is a function"):
        DataCollector(cart_pole(), 3)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    collector = DataCollector(cart_pole())
    collector.collect(1)
    with pytest.raises(FileError, match="Cannot make the folder"):
        collector.save(tmp_path / "file" / "data.npz")
