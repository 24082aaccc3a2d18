"""Wrappers that Gymnasium has not, or not without further packages: action repeat, pixels of any size, landings.

Its own serve for time limits (`TimeLimit`) and statistics (`RecordEpisodeStatistics`); `rows.py` rescales actions to
[-1, 1] and passes dict observations on.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldline.episode import Array
from worldline.errors import ConfigError

PIXELS = "pixels"  # the key of images in a dict observation


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any]):
    """Takes each action several times, or until the episode ends, and returns the sum of the rewards."""

    def __init__(self, env: gym.Env[Any, Any], num_repeats: int) -> None:
        super().__init__(env)
        self._num_repeats = num_repeats

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return the last observation, flags and info, with the sum of the rewards."""
        total = 0.0
        for _ in range(self._num_repeats):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


class Landing(gym.Wrapper[Any, Any, Any, Any]):
    """Says in the info of a LunarLander whether it came to rest ("success"), or crashed or left the screen ("crashed").

    Gymnasium's own says neither; there, the last reward is exactly 100 or -100.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return what the environment does, with the two in its info."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "success": terminated and reward == 100, "crashed": terminated and reward == -100}
        return obs, float(reward), terminated, truncated, info


class Pixels(gym.Wrapper[Any, Any, Any, Any]):
    """Observes what the environment renders as `[H, W, 3]` uint8, alone or beside its own observation.

    With `keep_state` the observation is a dict: "pixels", and "state" (or the keys of a dict that it was already).
    """

    def __init__(self, env: gym.Env[Any, Any], size: tuple[int, int], *, keep_state: bool) -> None:
        super().__init__(env)
        self._resize = Resize(size)
        self._keep_state = keep_state
        image = spaces.Box(0, 255, (*size, 3), np.uint8)
        own = env.observation_space
        self._is_dict = isinstance(own, spaces.Dict)
        self.observation_space = image
        if keep_state:
            parts = dict(own.spaces) if isinstance(own, spaces.Dict) else {"state": own}
            self.observation_space = spaces.Dict({**parts, PIXELS: image})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode and return its first observation, and info."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._observe(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action; everything but the observation is passed on."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(obs), reward, terminated, truncated, info

    def _observe(self, obs: Any) -> Any:
        image = self._resize(_rendered(self.env))
        if not self._keep_state:
            return image
        return {**(obs if self._is_dict else {"state": obs}), PIXELS: image}


class Resize:
    """Shrinks or enlarges images `[h, w, C]` uint8 to `[H, W, C]`: each pixel is the mean of the area it covers."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._weights: dict[tuple[int, int], tuple[Array, Array]] = {}

    def __call__(self, image: Array) -> Array:
        """Return the image in the new size."""
        before = (image.shape[0], image.shape[1])
        if before == self._size:
            return image
        if before not in self._weights:
            self._weights[before] = (_area_weights(before[0], self._size[0]), _area_weights(before[1], self._size[1]))
        rows, columns = self._weights[before]
        lines = np.tensordot(rows, image.astype(np.float32), axes=(1, 0))  # [H, w, C]
        resized = np.tensordot(columns, lines, axes=(1, 1)).transpose(1, 0, 2)  # [H, W, C]
        resized_bytes: Array = np.ascontiguousarray((resized + 0.5).astype(np.uint8))
        return resized_bytes


def image_size_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of what a caller gave.

    Raises:
        ConfigError: It is not one or two positive whole numbers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(length, int) or length < 1 for length in pair):
        raise ConfigError(f"image_size is {size!r}; expected a whole number of pixels, or (height, width).")
    return pair[0], pair[1]


def _area_weights(before: int, after: int) -> Array:
    """Return `[after, before]`: how much each old pixel counts in each new one, by the length they share."""
    edges = np.arange(after + 1) * (before / after)
    left, right = edges[:-1, None], edges[1:, None]  # [after, 1]
    old = np.arange(before)[None]
    shared = np.clip(np.minimum(right, old + 1) - np.maximum(left, old), 0, None)
    weights: Array = (shared / shared.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _rendered(env: gym.Env[Any, Any]) -> Array:
    image = env.render()
    if not isinstance(image, np.ndarray) or image.ndim != 3:
        raise ConfigError(f"{env} does not render images, so its pixels cannot be observed. Make it with other ones.")
    return image
