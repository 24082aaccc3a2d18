"""An environment whose every transition can be written down."""

from __future__ import annotations

import gymnasium as gym
import numpy as np


class Counting(gym.Env):
    """Observes (seed modulo a million, step); ends after `3 + seed % 4` steps.

    It is terminated where the seed is even, else truncated. The reward is 10 * step + the action.
    """

    observation_space = gym.spaces.Box(-1e9, 1e9, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.seed, self.count = -1, 0
        self.is_over = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.count = (self.seed + 100 if seed is None else seed), 0
        self.is_over = False
        return self._obs(), {}

    def step(self, action):
        assert not self.is_over
        reward = 10.0 * self.count + float(action)
        self.count += 1
        self.is_over = self.count == 3 + self.seed % 4
        return self._obs(), reward, self.is_over and self.seed % 2 == 0, self.is_over and self.seed % 2 == 1, {}

    def render(self):
        return np.full((4, 6, 3), self.count, np.uint8)

    def _obs(self):
        return np.array([self.seed % 1_000_000, self.count], dtype=np.float64)
