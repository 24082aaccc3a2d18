"""Meta-World: `metaworld:reach-v3` (39 observations with the goal in them, 4 actions, 500 steps).

Each episode has a goal and an object of its own place. Nothing terminates an episode, the 500 steps truncate it;
`info["success"]` is 1.0 where the task is done.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym

from worldline.episode import Array
from worldline.errors import ConfigError, missing_package, nearest


def make(
    name: str, *, image_size: tuple[int, int], camera: str = "corner2", render_mode: Literal["rgb_array"] | None = None
) -> gym.Env[Any, Any]:
    """Make the task `name`.

    Args:
        name: "reach-v3".
        image_size: Height and width of what is rendered.
        camera: Which one renders.
        render_mode: "rgb_array" to render, None not to.

    Raises:
        ConfigError: No such task; the message has the nearest.
        MissingPackageError: metaworld is not installed.
    """
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise missing_package("metaworld", "metaworld", "A metaworld: environment") from error
    if name not in ALL_V3_ENVIRONMENTS:
        raise ConfigError(f"There is no environment metaworld:{name}. {nearest(name, ALL_V3_ENVIRONMENTS)}")
    height, width = image_size
    return MetaWorldEnv(
        ALL_V3_ENVIRONMENTS[name](render_mode=render_mode, camera_name=camera, height=height, width=width)
    )


class MetaWorldEnv(gym.Wrapper[Array, Array, Any, Any]):
    """A task whose goal is observed and drawn anew at every `reset`, from its seed if it has one."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._task = env
        env._partially_observable = False
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True  # draw goals from the environment's generator, not from NumPy's global one
        env._set_task_called = True
        self.observation_space = env.sawyer_observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode."""
        if seed is not None:
            self._task.seed(seed)
        obs, info = self._task.reset()
        return obs, info

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take an action; the environment's own limit of steps truncates."""
        obs, reward, _, truncated, info = self._task.step(action)
        return obs, float(reward), False, bool(truncated), info
