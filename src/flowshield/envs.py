"""Environments by FlowShield's names: continuous control with vectors as states."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from worldline.envs.gymnasium_envs import make_gymnasium
from worldline.episode import Array
from worldline.errors import ConfigError, DataError, missing_package, nearest

__all__ = ["ContinuousEnvWrapper", "get_env_info", "list_envs", "make_env", "register_env"]

_HIGHWAY_CONFIG: dict[str, Any] = {
    "observation": {"type": "Kinematics", "vehicles_count": 5},
    "action": {"type": "ContinuousAction"},
}


class ContinuousEnvWrapper(gym.Wrapper[Array, Array, Any, Any]):
    """A Gymnasium environment with vectors as states and actions, and their sizes as attributes.

    Attributes:
        state_dim: Numbers of a state.
        action_dim: Numbers of an action.
        max_episode_steps: Steps after which an episode is cut off; None where there is no limit.

    Raises:
        DataError: States or actions are no boxes of numbers.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        states, actions = env.observation_space, env.action_space
        if not isinstance(actions, spaces.Box) or not isinstance(states, spaces.Box):
            raise DataError(f"{env} has states {states} and actions {actions}; expected boxes of numbers for both.")
        super().__init__(env if states.shape is not None and len(states.shape) == 1 else FlattenObservation(env))
        box = self.observation_space
        assert isinstance(box, spaces.Box)
        self.state_dim = int(np.prod(box.shape))
        self.action_dim = int(np.prod(actions.shape))
        self.max_episode_steps = None if env.spec is None else env.spec.max_episode_steps
        # What has no bounds is left as it is; bounds near the largest float are none.
        is_bounded = (np.abs(box.low) < _LARGEST) & (np.abs(box.high) < _LARGEST) & (box.high > box.low)
        with np.errstate(over="ignore", invalid="ignore"):
            self._shift = np.where(is_bounded, (box.low + box.high) / 2, 0.0).astype(np.float32)
            self._scale = np.where(is_bounded, (box.high - box.low) / 2, 1.0).astype(np.float32)

    def normalize_state(self, state: Array) -> Array:
        """Return states `[..., state_dim]` with the range of the observation space taken to [-1, 1].

        Numbers without a range stay as they are. The models need none of this: they know the scale of their data.
        """
        normalized: Array = (np.asarray(state, np.float32) - self._shift) / self._scale
        return normalized

    def denormalize_state(self, state: Array) -> Array:
        """Return what `normalize_state` takes to `state [..., state_dim]`."""
        restored: Array = np.asarray(state, np.float32) * self._scale + self._shift
        return restored


_LARGEST = 1e30

Make = Callable[..., gym.Env[Any, Any]]


def _make_lunar_lander(**settings: Any) -> gym.Env[Any, Any]:
    return make_gymnasium("LunarLander-v3", **{"continuous": True, **settings})


def _make_highway(config: Mapping[str, Any] | None = None, **settings: Any) -> gym.Env[Any, Any]:
    if importlib.util.find_spec("highway_env") is None:
        raise missing_package("highway-env", "highway", 'make_env("highway")')
    return make_gymnasium("highway_env:highway-v0", config={**_HIGHWAY_CONFIG, **(config or {})}, **settings)


_ENVS: dict[str, Make] = {"lunarlander": _make_lunar_lander, "highway": _make_highway}


def make_env(env_name: str, **kwargs: Any) -> ContinuousEnvWrapper:
    """Make an environment.

    Args:
        env_name: "lunarlander" (LunarLander-v3 with continuous actions), "highway" (highway-env, five vehicles), or
            what `register_env` added.
        **kwargs: Settings of the environment, such as `render_mode`.

    Raises:
        ConfigError: No such environment (with the nearest name), or a setting that it does not know.
        MissingPackageError: It needs a package that is not installed.
        DataError: Its states or actions are no boxes of numbers.
    """
    if env_name not in _ENVS:
        raise ConfigError(f"No environment is called {env_name!r}. {nearest(env_name, _ENVS)}")
    env = _ENVS[env_name](**kwargs)
    return env if isinstance(env, ContinuousEnvWrapper) else ContinuousEnvWrapper(env)


def register_env(name: str, wrapper_cls: Make) -> None:
    """Add an environment to those that `make_env` knows.

    Args:
        name: What to call it.
        wrapper_cls: A class or function that makes it from the settings given to `make_env`.

    Raises:
        ConfigError: There is one of this name already, or `wrapper_cls` cannot be called.
    """
    if name in _ENVS:
        raise ConfigError(f"There is an environment {name!r} already. Choose another name.")
    if not callable(wrapper_cls):
        raise ConfigError(f"wrapper_cls must make an environment when it is called; got {wrapper_cls!r}.")
    _ENVS[name] = wrapper_cls


def list_envs() -> list[str]:
    """Return the names that `make_env` knows."""
    return list(_ENVS)


def get_env_info(env_name: str) -> dict[str, Any]:
    """Return "state_dim", "action_dim" and "max_steps" of an environment, which is made for it and closed again."""
    env = make_env(env_name)
    env.close()
    return {"state_dim": env.state_dim, "action_dim": env.action_dim, "max_steps": env.max_episode_steps}
