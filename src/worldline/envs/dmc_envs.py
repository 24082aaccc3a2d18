"""The DeepMind Control Suite: `dmc:DOMAIN-TASK`, such as `dmc:walker-walk`.

An episode has 1,000 steps of the simulation's control rate (before any action repeat) and ends by time limit: it is
truncated. Only where a task says that the discount is zero, it is terminated. Rewards are in [0, 1] per step.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldline.episode import Array
from worldline.errors import ConfigError, missing_package, nearest


def make(
    name: str,
    *,
    image_size: tuple[int, int],
    camera: int = 0,
    render_mode: str | None = None,
    **task_settings: Any,
) -> gym.Env[Any, Any]:
    """Make the task `name`, which renders `camera` in the size asked for.

    Raises:
        ConfigError: No such task; the message has the nearest.
        MissingPackageError: dm-control is not installed.
    """
    suite = _load_suite()
    # Domains have underscores in them, and some tasks too: "ball_in_cup-catch", "finger-turn_easy".
    known = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in known:
        raise ConfigError(f"There is no environment dmc:{name}. {nearest(name, known)}")
    domain, task = known[name]
    env = suite.load(domain, task, task_kwargs={"random": 0, **task_settings})
    return DmcEnv(env, image_size=image_size, camera=camera, render_mode=render_mode)


class DmcEnv(gym.Env[Array, Array]):
    """A dm_env environment with one flat float32 observation: its parts in their order.

    An episode is a function of the seed of its `reset` and of the actions.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's declaration)

    def __init__(self, env: Any, *, image_size: tuple[int, int], camera: int, render_mode: str | None) -> None:
        self._env = env
        self._image_size = image_size
        self._camera = camera
        self.render_mode = render_mode
        specs = env.observation_spec().values()
        size = sum(int(np.prod(spec.shape)) for spec in specs)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        action = env.action_spec()
        low, high = (np.broadcast_to(bound, action.shape) for bound in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; without a seed, the one that the task's own generator comes to."""
        super().reset(seed=seed)
        if seed is not None:
            # dm_control seeds a task only when it is built; every draw of an episode comes from this generator.
            self._env.task._random = np.random.RandomState(seed)
        return self._flat(self._env.reset().observation), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take an action; a discount of zero terminates, any other end truncates."""
        step = self._env.step(action)
        is_last = bool(step.last())
        terminated = is_last and step.discount == 0.0
        return self._flat(step.observation), float(step.reward or 0.0), terminated, is_last and not terminated, {}

    def render(self) -> Array:
        """Return the camera's image `[H, W, 3]` uint8."""
        height, width = self._image_size
        image: Array = self._env.physics.render(height=height, width=width, camera_id=self._camera)
        return image

    def close(self) -> None:
        """Free the simulation."""
        self._env.close()

    def _flat(self, parts: dict[str, Any]) -> Array:
        return np.concatenate([np.ravel(part) for part in parts.values()]).astype(np.float32)


def _load_suite() -> Any:
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # read by dm_control when it is imported: renders without a display
    try:
        from dm_control import suite
    except ImportError as error:
        raise missing_package("dm-control", "dmc", "A dmc: environment") from error
    return suite
