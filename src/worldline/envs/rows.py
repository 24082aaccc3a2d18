"""RowEnv: a Gymnasium environment whose actions are rows of `Batch.actions`."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from worldline.envs.spaces import action_row_space, obs_space, spec_of, to_env_action, to_obs
from worldline.episode import Array, DataSpec, ObsArray


class RowEnv(gym.Wrapper[ObsArray, Array, Any, Any]):
    """What Worldline steps: actions as rows `[A]`, observations as arrays in their native dtype, or dicts of them.

    `spaces.py` says how both are converted; rewards and flags are passed on as the environment gave them.
    """

    data_spec: DataSpec

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap `env`.

        Raises:
            DataError: Its observations or actions are of a kind that Worldline cannot learn from.
        """
        super().__init__(env)
        self.data_spec = spec_of(env.observation_space, env.action_space)
        self.observation_space = obs_space(env.observation_space)
        self.action_space = action_row_space(env.action_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsArray, dict[str, Any]]:
        """Begin an episode and return its first observation `[*obs]`, and info."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self.convert_obs(obs), info

    def step(self, action: Array) -> tuple[ObsArray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action `[A]` and return (obs, reward, terminated, truncated, info).

        Raises:
            DataError: The action has another shape, or is not finite.
        """
        env_action = to_env_action(np.asarray(action), self.env.action_space)
        obs, reward, terminated, truncated, info = self.env.step(env_action)
        return self.convert_obs(obs), reward, bool(terminated), bool(truncated), info

    def convert_obs(self, obs: Any) -> ObsArray:
        """Return an observation of the wrapped environment as an array, or a dict of arrays, of its own memory."""
        return to_obs(obs, self.env.observation_space)
