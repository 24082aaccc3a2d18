"""Make environments by name. One file per environment family; this one only chooses among them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, RecordEpisodeStatistics, TimeLimit

from worldline.envs.gymnasium_envs import make_gymnasium
from worldline.envs.rows import RowEnv
from worldline.envs.vector import VectorEnv
from worldline.envs.wrappers import ActionRepeat, Pixels, image_size_of
from worldline.errors import ConfigError, nearest

Observe = Literal["state", "pixels", "both"]

# What stands before the colon of an id -> the module that makes it, loaded when it is needed.
FAMILIES = {
    "atari": "worldline.envs.atari_envs",
    "crafter": "worldline.envs.crafter_envs",
    "dmc": "worldline.envs.dmc_envs",
    "metaworld": "worldline.envs.metaworld_envs",
    "pusht": "worldline.envs.pusht_envs",
    "robot": "worldline.envs.robot",
}


def make_env(
    env_id: str,
    *,
    observe: Observe = "state",
    image_size: int | tuple[int, int] = 64,
    action_repeat: int = 1,
    max_episode_steps: int | None = None,
    episode_statistics: bool = False,
    obs_keys: Sequence[str] | None = None,
    **settings: Any,
) -> RowEnv:
    """Make an environment.

    Args:
        env_id: "dmc:walker-walk", "atari:pong", "crafter", "metaworld:reach-v3", "robot:reach", or a Gymnasium id
            ("CartPole-v1"; "module:Id" for ids that importing `module` registers).
        observe: "state" is what the environment itself observes (images, where it has nothing else), "pixels" what it
            renders, "both" a dict of the two.
        image_size: Height and width of images, which are `[H, W, 3]` uint8.
        action_repeat: How often each action is taken; the rewards are summed.
        max_episode_steps: Truncate episodes after so many steps of the environment itself, before any repeat; None
            for the environment's own limit.
        episode_statistics: Put "episode" with return "r" and length "l" into the info of an episode's last step.
        obs_keys: Observe only these of the observations by name; None for all.
        **settings: Keywords of the family and of the environment.

    Returns:
        The environment, stepped with rows `[A]` of `Batch.actions`; `env.data_spec` has the shapes.

    Raises:
        ConfigError: No such environment (with the nearest ids), or a keyword it does not know.
        MissingPackageError: The environment needs a package that is not installed.
        DataError: Its observations or actions are of a kind that Worldline cannot learn from.
    """
    if observe not in ("state", "pixels", "both"):
        raise ConfigError(f"observe must be 'state', 'pixels' or 'both'; got {observe!r}.")
    for name, count in (("action_repeat", action_repeat), ("max_episode_steps", max_episode_steps)):
        if count is not None and count < 1:
            raise ConfigError(f"{name} must be at least 1; got {count}.")
    size = image_size_of(image_size)
    if observe != "state":
        settings.setdefault("render_mode", "rgb_array")
    env = _make_bare(env_id, size, max_episode_steps, settings)
    if action_repeat > 1:
        env = ActionRepeat(env, action_repeat)
    if observe != "state":
        env = Pixels(env, size, keep_state=observe == "both")
    if obs_keys is not None:
        env = _observing(env, obs_keys)
    if episode_statistics:
        env = RecordEpisodeStatistics(env)
    return RowEnv(env)


def make_vec_env(env_id: str, num_envs: int, **settings: Any) -> VectorEnv:
    """Make `num_envs` environments that are stepped together; `settings` are those of `make_env`.

    Raises:
        ConfigError: `num_envs` is less than 1, or as for `make_env`.
        MissingPackageError: The environment needs a package that is not installed.
        DataError: Its observations or actions are of a kind that Worldline cannot learn from.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1; got {num_envs}.")
    return VectorEnv([make_env(env_id, **settings) for _ in range(num_envs)])


def _observing(env: gym.Env[Any, Any], keys: Sequence[str]) -> gym.Env[Any, Any]:
    space = env.observation_space
    if not isinstance(space, spaces.Dict):
        raise ConfigError(
            f"obs_keys chooses observations by name, and this environment observes {space}. Leave it out."
        )
    for key in keys:
        if key not in space.spaces:
            raise ConfigError(f"obs_keys has {key!r}, which is not observed. {nearest(key, space.spaces)}")
    return FilterObservation(env, list(keys))


def _make_bare(
    env_id: str, image_size: tuple[int, int], max_episode_steps: int | None, settings: dict[str, Any]
) -> gym.Env[Any, Any]:
    """Make the environment as its family does, with the time limit that was asked for."""
    prefix, _, name = env_id.partition(":")
    if prefix not in FAMILIES:
        if max_episode_steps is not None:
            settings["max_episode_steps"] = max_episode_steps
        return make_gymnasium(env_id, **settings)
    make: Callable[..., gym.Env[Any, Any]] = importlib.import_module(FAMILIES[prefix]).make
    try:
        env = make(name, image_size=image_size, **settings)
    except TypeError as error:
        raise ConfigError(f"{env_id} cannot be made with {', '.join(settings) or 'no settings'}: {error}.") from error
    return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)
