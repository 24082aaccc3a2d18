"""Environments by name: their observations and actions, those of users, and demonstrations of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from envs.counting import Counting
from simscaleai.sim import SimEnv, environments, list_envs, make_env, register_env
from simscaleai.sim.demonstrations import record, write
from simscaleai.training.data.dataset import TrajectoryDataset
from worldline.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_registered", {})


def test_reach_observes_twenty_numbers():
    env = make_env("reach")
    obs, _ = env.reset(seed=0)
    assert {key: value.shape for key, value in obs.items()} == {
        "joint_pos": (7,),
        "joint_vel": (7,),
        "ee_pos": (3,),
        "target_pos": (3,),
    }
    assert env.action_space.shape == (4,)
    again, _ = make_env("reach").reset(seed=0)
    assert all((obs[key] == again[key]).all() for key in obs)
    _, _, _, _, info = env.step(np.zeros(4, dtype=np.float32))
    assert info["success"] is False
    env.close()


def test_images_are_observed_beside():
    env = make_env("language_reach", image_size=(16, 24))
    obs, info = env.reset(seed=1)
    assert obs["image"].shape == env.observation_space["image"].shape == (16, 24, 3)
    assert obs["image"].dtype == np.uint8
    assert obs["image"].std() > 0
    assert bytes(obs["language"]).rstrip(b"\0").decode() == info["language"]
    assert env.another().observation_space == env.observation_space
    env.close()


def test_names_and_mistakes():
    assert list_envs() == ["reach", "pick_place", "language_reach"]
    with pytest.raises(ConfigError, match="Did you mean 'reach'"):
        make_env("reac")
    with pytest.raises(ConfigError, match="wind"):
        make_env("reach", wind=3)


def test_users_environments():
    made: list[Any] = []

    @register_env("counting")
    def make(**settings: Any) -> gym.Env[Any, Any]:
        made.append(settings)
        return Counting()

    env = make_env("counting")
    assert isinstance(env, SimEnv)
    assert isinstance(env.another().unwrapped, Counting)
    assert made == [{}, {}]
    assert list_envs()[-1] == "counting"
    register_env("counting", make)
    for name in ("counting", "reach"):
        with pytest.raises(ConfigError, match="already"):
            register_env(name, lambda: Counting())


def test_demonstrations_are_written_as_documented(tmp_path: Path):
    import h5py

    episodes = record("language_reach", num_episodes=3, seed=5, action_noise=0.3, image_size=16)
    write(tmp_path / "data" / "demo.h5", episodes)
    with h5py.File(tmp_path / "data" / "demo.h5") as file:
        assert sorted(file) == ["episode_0", "episode_1", "episode_2"]
        group = file["episode_1"]
        assert "language" not in group["observations"]
        assert group["observations/image"].shape[1:] == (16, 16, 3)
        assert group["actions"].shape == (len(episodes[1]), 4)
        assert group.attrs["language"] == episodes[1].meta["language"]
    dataset = TrajectoryDataset(tmp_path / "data" / "demo.h5", include_language=True)
    assert len(dataset) == sum(len(episode) for episode in episodes)
    assert dataset[0]["observations"]["image"].shape == (3, 16, 16)
    assert all(episode.meta["success"] for episode in episodes)
    again = record("language_reach", num_episodes=3, seed=5, action_noise=0.3, image_size=16)
    assert (again[2].actions == episodes[2].actions).all()
