"""Small environments and policies whose every number is known."""

from __future__ import annotations

import numpy as np
import torch

from worldline.episode import DataSpec

SPEC = DataSpec(obs_shape=(2,), action_dim=2, action_type="discrete", action_sizes=(2,))


class Counter:
    """Observes (seed, step); ends after `3 + seed % 4` steps, terminated where the seed is even, else truncated.

    The reward is 10 * step + the index of the action.
    """

    data_spec = SPEC

    def __init__(self):
        self.closed = False

    def reset(self, *, seed=None):
        self.seed, self.count = seed, 0
        return self._obs(), {}

    def step(self, action):
        reward = 10.0 * self.count + float(np.argmax(action))
        self.count += 1
        is_over = self.count == 3 + self.seed % 4
        return self._obs(), reward, is_over and self.seed % 2 == 0, is_over and self.seed % 2 == 1, {}

    def close(self):
        self.closed = True

    def _obs(self):
        return np.array([self.seed, self.count], dtype=np.float32)


class Memory:
    """Acts on what it remembers: the index is the parity of seed + number of calls since the episode began."""

    def __init__(self):
        self.batch_sizes = []

    def act(self, obs, state=None, *, is_first=None, deterministic=False):
        calls = torch.zeros(len(obs)) if state is None else torch.where(is_first, 0.0, state + 1)
        self.batch_sizes.append(len(obs))
        index = (obs[:, 0] + calls).long() % 2
        return torch.nn.functional.one_hot(index, 2).float(), calls


class Striving(Counter):
    """A Counter that succeeds in the second step of episodes whose seed is a multiple of 3, and says what to do."""

    def reset(self, *, seed=None):
        obs, _ = super().reset(seed=seed)
        return obs, {"success": False, "language": f"count from {seed}"}

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"success": self.count == 2 and self.seed % 3 == 0}
