"""Worldline's robot by SimScaleAI's names, and environments that users register."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from worldline.envs import make as core
from worldline.envs.rows import RowEnv
from worldline.envs.wrappers import PIXELS
from worldline.episode import Array, DataSpec
from worldline.errors import ConfigError, nearest

IMAGE = "image"

Obs = dict[str, Array]
Factory = Callable[..., gym.Env[Any, Any]]

_ROBOT: Mapping[str, str] = {
    "reach": "Move the tool to a target.",
    "pick_place": "Pick up a cube and put it on a target.",
    "language_reach": "Move the tool to the one of four coloured targets that the instruction names.",
}
_registered: dict[str, Factory] = {}


class SimEnv(gym.Wrapper[Any, Array, Any, Any]):
    """An environment of which more can be made, so that several episodes are evaluated together.

    Attributes:
        name: What it was made as.
        data_spec: The shapes of observations and actions.
    """

    data_spec: DataSpec

    def __init__(self, env: RowEnv, name: str, make: Callable[..., SimEnv]) -> None:
        super().__init__(env)
        self.name = name
        self.data_spec = env.data_spec
        self._make = make

    def another(self, **settings: Any) -> SimEnv:
        """Make another one like this, but for these settings."""
        return self._make(**settings)


def make_env(name: str, *, image_size: int | tuple[int, int] | None = None, **settings: Any) -> SimEnv:
    """Make an environment: "reach", "pick_place", "language_reach", or one that was registered.

    Actions are in [-1, 1]: of the robot `[4]`, how its tool moves along x, y and z, and 1 to close the gripper.
    Observations are dicts: "joint_pos" `[7]`, "joint_vel" `[7]`, "ee_pos" `[3]`, and what the task adds ("target_pos"
    `[3]`). `info["success"]` says whether the task is done.

    Args:
        name: Which.
        image_size: Height and width of an observation "image" `[H, W, 3]` uint8 besides; None is without.
        **settings: Of Worldline's environment, such as `randomization`, `action_noise` and `camera`; those of a
            registered one are its own.

    Raises:
        ConfigError: There is no such environment or setting; the message has the nearest.
        MissingPackageError: MuJoCo is not installed.
    """
    make = functools.partial(make_env, name, image_size=image_size, **settings)
    if name in _registered:
        env = _registered[name](**settings, **({} if image_size is None else {"image_size": image_size}))
        return SimEnv(env if isinstance(env, RowEnv) else RowEnv(env), name, make)
    if name not in _ROBOT:
        raise ConfigError(f"There is no environment {name!r}. {nearest(name, list_envs())}")
    if image_size is None:
        return SimEnv(core.make_env(core_id(name), **settings), name, make)
    bare = core.make_env(core_id(name), observe="both", image_size=image_size, **settings)
    return SimEnv(RowEnv(_NamedImage(bare.env)), name, make)


def register_env(name: str, factory: Factory | None = None) -> Any:
    """Let `make_env(name, **settings)` call `factory(**settings)`, which returns a Gymnasium environment.

    Without `factory`, return a decorator: `@register_env("mine")`.

    Raises:
        ConfigError: The name is taken.
    """
    if factory is None:
        return lambda decorated: register_env(name, decorated)
    if name in _ROBOT or _registered.get(name, factory) is not factory:
        raise ConfigError(f"There is an environment {name!r} already. Choose another name.")
    _registered[name] = factory
    return factory


def list_envs() -> list[str]:
    """Return the names of all environments."""
    return [*_ROBOT, *_registered]


def core_id(name: str) -> str:
    """Return what Worldline calls an environment."""
    return f"robot:{name}" if name in _ROBOT else name


def describe(name: str) -> str:
    """Return what an environment is, in a sentence."""
    return _ROBOT.get(name, "Registered by the user.")


class _NamedImage(gym.Wrapper[Any, Any, Any, Any]):
    """Calls what is rendered "image"."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self.observation_space = spaces.Dict(_renamed(dict(env.observation_space.spaces)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return _renamed(obs), info

    def step(self, action: Any) -> tuple[Obs, Any, bool, bool, dict[str, Any]]:
        """Take an action."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return _renamed(obs), reward, terminated, truncated, info


def _renamed(named: Mapping[str, Any]) -> dict[str, Any]:
    return {IMAGE if key == PIXELS else key: value for key, value in named.items()}
