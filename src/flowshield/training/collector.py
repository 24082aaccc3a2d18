"""DataCollector: record episodes of any Gymnasium environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from flowshield.training.dataset import TrajectoryDataset
from worldline.batch import Obs
from worldline.cli.terminal import episode_progress
from worldline.data.buffer import ReplayBuffer
from worldline.envs.rows import RowEnv
from worldline.envs.spaces import to_action_row
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError, FileError
from worldline.evaluation.rollout import RandomPolicy, collect_episodes
from worldline.files import make_folders
from worldline.protocols import Policy


class DataCollector:
    """Records episodes of a policy.

    Args:
        env: Any Gymnasium environment. It stays open.
        policy: From a state to an action, both as the environment has them; or one of Worldline's, such as
            `worldline.envs.scripted.scripted_policy("mixed", ...)`. None acts at random.
        seed: The first episode begins with it, and every further one, of all calls of `collect`, with one more.

    Raises:
        DataError: Worldline cannot learn from such observations or actions.
    """

    def __init__(
        self, env: gym.Env[Any, Any], policy: Callable[..., Any] | Policy | None = None, seed: int = 0
    ) -> None:
        self._env = _Borrowed(env)
        self._seed = seed
        self._episodes: list[Episode] = []
        if policy is None:
            self._policy: Policy = RandomPolicy(self._env.data_spec)
        elif isinstance(policy, Policy):
            self._policy = policy
        elif callable(policy):
            self._policy = _Function(policy, env)
        else:
            raise ConfigError(f"A policy is a function from state to action; got {policy!r}.")

    def collect(self, n_episodes: int, render: bool = False) -> TrajectoryDataset:
        """Record so many whole episodes, and return them.

        Args:
            n_episodes: How many.
            render: Watch them; the environment must have been made with `render_mode="human"`.

        Raises:
            ConfigError: The environment shows nothing, or there are no episodes to record.
        """
        if render and self._env.render_mode != "human":
            raise ConfigError('To watch, make the environment with render_mode="human".')
        with episode_progress("Collecting", n_episodes) as on_episode:
            episodes = collect_episodes(
                lambda: self._env,
                self._policy,
                num_episodes=n_episodes,
                seed=self._seed + len(self._episodes),
                num_envs=1,
                on_episode=on_episode,
            )
        self._episodes += episodes
        return TrajectoryDataset.from_buffer(self._buffer(episodes))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that was collected as an `.npz` file, whole or not at all.

        Raises:
            DataError: Nothing was collected yet.
            FileError: The file cannot be written.
        """
        if not self._episodes:
            raise DataError("Nothing was collected yet. Call collect(n_episodes) first.")
        file = Path(path)
        try:
            make_folders(file.parent)
        except OSError as error:
            raise FileError(f"Cannot make the folder of {file}: {error}. Choose another one.") from error
        self._buffer(self._episodes).save(file)

    def _buffer(self, episodes: list[Episode]) -> ReplayBuffer:
        spec = self._env.data_spec
        return ReplayBuffer.from_episodes(episodes, action_dim=spec.action_dim, action_sizes=spec.action_sizes)


class _Borrowed(RowEnv):
    """An environment that its owner closes."""

    def close(self) -> None:
        """Leave it open."""


class _Function:
    """A function from state to action as a policy."""

    def __init__(self, function: Callable[[Any], Any], env: gym.Env[Any, Any]) -> None:
        self._function = function
        self._space = env.action_space

    def act(
        self, obs: Obs, state: Any = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, Any]:
        if isinstance(obs, dict):
            names = list(obs)
            seen: list[Any] = [
                {name: obs[name][place].numpy() for name in names} for place in range(len(obs[names[0]]))
            ]
        else:
            seen = list(cast(Any, obs.numpy()))
        rows = [to_action_row(self._function(one), self._space) for one in seen]
        return torch.from_numpy(np.stack(rows)), None
