"""Demonstrations, recorded in a simulated environment and written as SimScaleAI's HDF5."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from simscaleai.sim.environments import SimEnv, core_id, make_env
from worldline.data.buffer import ReplayBuffer
from worldline.data.formats import hdf5
from worldline.envs.scripted import scripted_names, scripted_policy
from worldline.episode import Episode
from worldline.errors import ConfigError, nearest
from worldline.evaluation.rollout import LANGUAGE, RandomPolicy, collect_episodes
from worldline.files import make_folders
from worldline.protocols import Policy


def record(
    name: str,
    *,
    policy: str = "expert",
    num_episodes: int = 100,
    seed: int = 0,
    action_noise: float = 0.0,
    image_size: int | None = None,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Return episodes of an environment's expert, or of random actions.

    Instructions are in the `meta` of the episodes alone, not among their observations.

    Args:
        name: The environment.
        policy: "expert" or "random".
        num_episodes: How many.
        seed: Episode i begins with this seed plus i.
        action_noise: Deviation of what disturbs the movement that is asked for.
        image_size: Height and width of an observation "image"; None is without.
        on_episode: Called with each when it ends.

    Raises:
        ConfigError: There is no such environment or expert.
    """
    settings = {"action_noise": action_noise} if action_noise else {}
    env = make_env(name, image_size=image_size, **settings)
    actor = policy_for(policy, env)
    env.close()
    episodes = collect_episodes(
        env.another, actor, num_episodes=num_episodes, seed=seed, deterministic=True, on_episode=on_episode
    )
    return [_without_instruction(episode) for episode in episodes]


def policy_for(policy: str, env: SimEnv) -> Policy:
    """Return the policy "random", or a scripted one such as "expert", of an environment.

    Raises:
        ConfigError: It has none of that name.
    """
    if policy == "random":
        return RandomPolicy(env.data_spec)
    known = scripted_names(core_id(env.name))
    if policy not in known:
        raise ConfigError(f"{env.name} has no policy {policy!r}. {nearest(policy, [*known, 'random'])}")
    return scripted_policy(policy, core_id(env.name), env.data_spec)


def write(path: str | os.PathLike[str], episodes: Sequence[Episode]) -> None:
    """Write episodes as HDF5, whole or not at all.

    Raises:
        FileError: The file cannot be written.
        DataError: There are none, or they do not fit together.
    """
    buffer = ReplayBuffer.from_episodes(episodes, action_dim=episodes[0].actions.shape[-1] if episodes else 1)
    target = Path(path)
    make_folders(target.parent)
    hdf5.write(target, buffer._episode_store(), buffer.spec, meta=[episode.meta for episode in episodes])


def _without_instruction(episode: Episode) -> Episode:
    if not isinstance(episode.obs, dict) or LANGUAGE not in episode.obs:
        return episode
    return episode.select_obs([key for key in episode.obs if key != LANGUAGE])
