"""Crafter: `crafter`, or `crafter:noreward` without its rewards (17 actions, images, 22 achievements).

Death terminates an episode, the limit of 10,000 steps truncates it. `info["achievements"]` counts what was achieved.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldline.episode import Array
from worldline.errors import ConfigError, missing_package, nearest

_VARIANTS = {"": True, "reward": True, "noreward": False}


def make(
    name: str, *, image_size: tuple[int, int], length: int = 10_000, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """Make Crafter.

    Args:
        name: "" or "reward" with rewards, "noreward" without.
        image_size: Height and width of observations.
        length: Steps after which an episode is truncated.
        render_mode: As Gymnasium has it.

    Raises:
        ConfigError: No such variant.
        MissingPackageError: crafter is not installed.
    """
    if name not in _VARIANTS:
        raise ConfigError(f"There is no environment crafter:{name}. {nearest(name, _VARIANTS)}")
    try:
        import crafter
    except ImportError as error:
        raise missing_package("crafter", "crafter", "The environment crafter") from error
    return CrafterEnv(crafter.Env(size=image_size[::-1], reward=_VARIANTS[name], length=length, seed=0), render_mode)


class CrafterEnv(gym.Env[Array, Any]):
    """Crafter with Gymnasium's interface. An episode is a function of the seed of its `reset` and of the actions."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's declaration)

    def __init__(self, env: Any, render_mode: str | None) -> None:
        self._env = env
        self.render_mode = render_mode
        shape = tuple(int(length) for length in env.observation_space.shape)
        self._image: Array = np.zeros(shape, np.uint8)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(len(env.action_names))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in a new world."""
        super().reset(seed=seed)
        if seed is not None:
            # Crafter makes each world from (seed, number of the episode), and has no other way to be seeded again.
            self._env._seed, self._env._episode = seed, 0
        self._image = self._env.reset()
        return self._image, {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take an action; `discount` is zero where the player died."""
        self._image, reward, is_over, info = self._env.step(int(action))
        terminated = is_over and info["discount"] == 0.0
        return self._image, float(reward), terminated, is_over and not terminated, info

    def render(self) -> Array:
        """Return the last observation."""
        return self._image
