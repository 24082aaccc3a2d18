"""Atari games, where ale-py is installed."""

import numpy as np
import pytest

from worldline.envs.atari_envs import AtariFrames
from worldline.envs.make import make_env

from .counting import Counting
from .families import check_errors, check_replay

pytest.importorskip("ale_py")


def test_frames():
    env = make_env("atari:pong")
    obs, info = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((64, 64, 3), np.uint8)
    assert 1 <= info["episode_frame_number"] <= 30
    *_, after = env.step(np.eye(6)[0])
    assert after["episode_frame_number"] == info["episode_frame_number"] + 4
    assert env.data_spec.action_sizes == (6,)
    assert make_env("atari:ms_pacman", all_actions=True, image_size=84).data_spec.obs_shape == (84, 84, 3)


def test_rewards_are_summed_up_to_the_end_and_frames_merged():
    class Frames(Counting):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.length = 100
            return self._obs(), {}

        def step(self, action):
            self.count += 1
            return self._obs(), 1.0, self.count == self.length, False, {}

        def _obs(self):
            return np.full((2, 2, 3), 100 if self.count % 2 else 50, np.uint8)

    env = AtariFrames(Frames(), (2, 2))
    env.reset(seed=0)
    obs, reward, terminated, _, _ = env.step(0)
    assert (obs.max(), reward, terminated) == (100, 4.0, False)
    env.unwrapped.length = env.unwrapped.count + 2
    assert env.step(0)[1:3] == (2.0, True)


def test_seeds_and_replay():
    env = make_env("atari:pong")
    idle = [env.reset(seed=seed)[1]["episode_frame_number"] for seed in (1, 1, 2, 3, 4)]
    assert idle[0] == idle[1]
    assert len(set(idle)) > 1
    check_replay("atari:pong")


def test_errors(monkeypatch):
    check_errors("atari:pong", "pong", "ale-py", "ale_py", "atari", monkeypatch)
