"""Push-T (Florence et al. 2021; Chi et al. 2023): push a T-shaped block onto its outline. `pusht`, or `pusht:state`.

`pusht` observes what the published low-dimensional policies do: nine points of the block and the pusher, x and y each,
20 numbers in pixels of [0, 512]. `pusht:state` observes five: pusher x and y, block x and y, and its angle in radians.
Actions are where the pusher shall go, both coordinates.

The reward of a step is how much of the outline is covered, divided by 0.95 and at most 1; `info["coverage"]` is the
share itself. At 95% an episode is terminated and is a success; 300 steps truncate it. The published score of an episode
is its greatest reward.

The package's own `environment_state` is eight other points; the demonstrations that were published have these nine.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldline.episode import Array
from worldline.errors import ConfigError, missing_package, nearest

PIXELS = 512.0  # the side of the field
MAX_STEPS = 300
OBSERVED = {"": 20, "keypoints": 20, "state": 5}  # name -> how many numbers

# Nine points on the block, in its own frame, measured in the published demonstrations (to 0.01 pixels)
_KEYPOINTS = np.array(
    [
        (9.27, 90.04),
        (-60.98, -1.19),
        (60.91, -1.39),
        (-0.27, 25.54),
        (-14.07, 122.82),
        (39.00, 32.86),
        (-39.97, 32.73),
        (-16.82, 62.86),
        (23.54, -1.70),
    ]
)


def make(name: str, *, image_size: tuple[int, int], render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make the task; `name` is what is observed: "", "keypoints" or "state".

    Args:
        name: What stands behind "pusht:".
        image_size: Height and width of what is rendered.
        render_mode: "rgb_array" to render, None not to.

    Raises:
        ConfigError: No such observation.
        MissingPackageError: gym-pusht is not installed.
    """
    if name not in OBSERVED:
        raise ConfigError(f"There is no environment pusht:{name}. {nearest(name, OBSERVED)}")
    try:
        from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise missing_package("gym_pusht", "pusht", "The environment pusht") from error
    height, width = image_size
    env = PushTEnv(
        obs_type="state",
        render_mode=render_mode or "rgb_array",
        visualization_height=height,
        visualization_width=width,
    )
    limited: gym.Env[Any, Any] = gym.wrappers.TimeLimit(env, MAX_STEPS)
    return limited if name == "state" else PushTKeypoints(limited)


class PushTKeypoints(gym.ObservationWrapper[Array, Any, Any]):
    """Observes nine points of the block, then the pusher."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (OBSERVED["keypoints"],), np.float32)

    def observation(self, observation: Array) -> Array:
        """Return `[20]` for the five numbers of the state."""
        return keypoints_of(observation)


def keypoints_of(states: Array) -> Array:
    """Return the nine points of the block and the pusher, `[..., 20]` float32, for states `[..., 5]`."""
    pusher, block, angle = states[..., :2], states[..., 2:4], states[..., 4:]
    x, y = _KEYPOINTS[:, 0], _KEYPOINTS[:, 1]
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([cos * x - sin * y, sin * x + cos * y], -1) + block[..., None, :]  # [..., 9, 2]
    joined: Array = np.concatenate([points.reshape(*states.shape[:-1], -1), pusher], -1).astype(np.float32)
    return joined
