"""Atari games by the Atari100k protocol: `atari:pong`, `atari:ms_pacman`.

Four frames an action, of which the last two are merged by their maximum, so that flickering sprites stay; up to 30
idle frames at the start; no sticky actions; the actions that the game needs; lost lives do not end an episode; a limit
of 108,000 frames truncates one. 100,000 steps are 400,000 frames. Observations are `[64, 64, 3]` uint8 (`image_size`).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldline.envs.gymnasium_envs import make_gymnasium
from worldline.envs.wrappers import Resize
from worldline.episode import Array
from worldline.errors import ConfigError, missing_package, nearest

_FRAMES = 4  # of an action
_MAX_IDLE_FRAMES = 30
_MAX_FRAMES = 108_000  # of an episode


def make(
    name: str,
    *,
    image_size: tuple[int, int],
    sticky: float = 0.0,
    all_actions: bool = False,
    render_mode: str | None = None,
) -> gym.Env[Any, Any]:
    """Make the game `name`, in lower case with underscores.

    Args:
        name: "pong", "ms_pacman".
        image_size: Height and width of observations.
        sticky: Probability that the last action is taken again, in [0, 1].
        all_actions: Offer all 18 actions, also those that do nothing in this game.
        render_mode: As Gymnasium has it.

    Raises:
        ConfigError: No such game; the message has the nearest.
        MissingPackageError: ale-py is not installed.
    """
    try:
        import ale_py
    except ImportError as error:
        raise missing_package("ale-py", "atari", "An atari: environment") from error
    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    games = {
        _snake_case(env_id[4:-3]): env_id for env_id in gym.registry if env_id.startswith("ALE/") and "-v5" in env_id
    }
    if name not in games:
        raise ConfigError(f"There is no environment atari:{name}. {nearest(name, games)}")
    env = make_gymnasium(
        games[name],
        frameskip=1,
        repeat_action_probability=sticky,
        full_action_space=all_actions,
        max_num_frames_per_episode=_MAX_FRAMES,
        render_mode=render_mode,
    )
    return AtariFrames(env, image_size)


class AtariFrames(gym.Wrapper[Array, Any, Any, Any]):
    """Idle starts, four frames an action, the maximum of the last two, resized."""

    def __init__(self, env: gym.Env[Any, Any], image_size: tuple[int, int]) -> None:
        super().__init__(env)
        self._resize = Resize(image_size)
        self.observation_space = spaces.Box(0, 255, (*image_size, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode with a random number of idle frames, which the seed decides."""
        frame, info = self.env.reset(seed=seed, options=options)
        generator = self.env.unwrapped.np_random if seed is None else np.random.default_rng(seed)
        for _ in range(int(generator.integers(1, _MAX_IDLE_FRAMES + 1))):
            frame, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                frame, info = self.env.reset(options=options)
        return self._resize(frame), info

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take the action for four frames, or until the game ends."""
        total = 0.0
        frames: list[Array] = []
        for _ in range(_FRAMES):
            frame, reward, terminated, truncated, info = self.env.step(action)
            frames.append(frame)
            total += float(reward)
            if terminated or truncated:
                break
        return self._resize(np.maximum(frames[-1], frames[-2:][0])), total, terminated, truncated, info


def _snake_case(name: str) -> str:
    """Return "ms_pacman" for "MsPacman"."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
