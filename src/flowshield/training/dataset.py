"""TrajectoryDataset and CommandDataset: Worldline's replay buffer by FlowShield's names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowshield.training.files import read_buffer
from worldline.batch import Batch, WindowSpec
from worldline.data.buffer import ReplayBuffer
from worldline.data.commands import compute_hindsight_commands
from worldline.episode import Array, Episode
from worldline.errors import DataError

if TYPE_CHECKING:
    from worldline.statistics import ColumnStatistics

_ROWS = WindowSpec(pad_end=True, commands=True)  # every step is the first row of a window


class TrajectoryDataset:
    """Trajectories of vectors, held in a `ReplayBuffer`.

    Args:
        data_path: An `.npz` or `.pkl` file; `flowshield.training.files` says what may be in it.

    Attributes:
        buffer: The replay buffer, for everything of Worldline's.
        states: `[N, state_dim]`, of all episodes one after the other.
        actions: `[N, action_dim]`; one-hot where they are discrete.
        rewards: `[N]`.
        dones: `[N]`, 1 in the last row of every episode, however it ended.

    Raises:
        FileError: The file is missing, damaged, hostile, or of no layout that is known.
        DataError: Its arrays do not fit together, or states are no vectors.
    """

    def __init__(self, data_path: str | os.PathLike[str]) -> None:
        self._hold(read_buffer(data_path))

    @classmethod
    def from_buffer(cls, buffer: ReplayBuffer) -> TrajectoryDataset:
        """Return the data set of a buffer, which it shares.

        Raises:
            DataError: It is empty, or its observations are no vectors.
        """
        dataset = cls.__new__(cls)
        dataset._hold(buffer)
        return dataset

    def _hold(self, buffer: ReplayBuffer) -> None:
        shape = buffer.spec.obs_shape
        if isinstance(shape, dict) or len(shape) != 1:
            raise DataError(f"States have the shape {shape}; expected vectors [state_dim]. Flatten or choose some.")
        self.buffer = buffer

    def __len__(self) -> int:
        return self.buffer.num_transitions

    def __repr__(self) -> str:
        return f"TrajectoryDataset({len(self):,} transitions, {self.buffer.num_episodes:,} episodes)"

    @property
    def state_dim(self) -> int:
        """Numbers of a state."""
        shape = self.buffer.spec.obs_shape
        assert isinstance(shape, tuple)
        return shape[0]

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""
        return self.buffer.spec.action_dim

    @property
    def states(self) -> Array:
        """`[N, state_dim]`."""
        return self._columns["states"]

    @property
    def actions(self) -> Array:
        """`[N, action_dim]`."""
        return self._columns["actions"]

    @property
    def rewards(self) -> Array:
        """`[N]`."""
        return self._columns["rewards"]

    @property
    def dones(self) -> Array:
        """`[N]`."""
        return self._columns["dones"]

    @property
    def commands(self) -> Array:
        """`[N, 2]`, the hindsight command of every row."""
        return self._columns["commands"]

    def get_hindsight_batch(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return states `[B, state_dim]`, actions `[B, action_dim]` and their hindsight commands `[B, 2]`.

        All rows are equally likely. Which are drawn is a function of how often a batch was drawn, and of `seek`.
        """
        batch = self._sample(batch_size)
        assert isinstance(batch.obs, Tensor)
        assert batch.commands is not None
        return batch.obs[:, 0], batch.actions[:, 0], batch.commands[:, 0]

    def get_command_pairs(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return states `[B, state_dim]` and their hindsight commands `[B, 2]`, as `get_hindsight_batch` does."""
        states, _, commands = self.get_hindsight_batch(batch_size)
        return states, commands

    def seek(self, *, seed: int, step: int) -> None:
        """Make the next batch the one of `step` (0-based) under `seed`; a new data set stands at seed 0, step 0."""
        self.buffer.seek(seed=seed, step=step)

    def statistics(self) -> Mapping[str, ColumnStatistics]:
        """Return the statistics of every column: what `UDRLAgent.fit` and the shields' `fit` take."""
        return self.buffer.statistics()

    def episodes(self) -> Iterator[Episode]:
        """Return an iterator over the episodes: what a shield's `calibrate` takes."""
        return self.buffer.episodes()

    def split(self, held_out: float, *, seed: int = 0) -> tuple[TrajectoryDataset, TrajectoryDataset]:
        """Return two data sets, the second with the fraction `held_out` of the episodes, drawn by `seed`."""
        learnt, rest = self.buffer.split(held_out, seed=seed)
        return TrajectoryDataset.from_buffer(learnt), TrajectoryDataset.from_buffer(rest)

    def _sample(self, batch_size: int) -> Batch:
        return self.buffer.sample(batch_size, 1, windows=_ROWS)

    @cached_property
    def _columns(self) -> dict[str, Array]:
        episodes = list(self.buffer.episodes())
        dones = np.zeros(len(self), dtype=np.float32)
        dones[np.cumsum([len(episode) for episode in episodes]) - 1] = 1.0
        rewards = np.concatenate([episode.rewards for episode in episodes])
        return {
            "states": np.concatenate([np.asarray(episode.obs) for episode in episodes]),
            "actions": np.concatenate([episode.actions for episode in episodes]),
            "rewards": rewards,
            "dones": dones,
            "commands": compute_hindsight_commands(rewards, dones),
        }


class CommandDataset(Dataset[tuple[Tensor, Tensor]]):
    """The (state, command) pairs of a `TrajectoryDataset`, one by one, as torch's `DataLoader` takes them."""

    def __init__(self, trajectory_dataset: TrajectoryDataset) -> None:
        self._states = torch.from_numpy(trajectory_dataset.states)
        self._commands = torch.from_numpy(trajectory_dataset.commands)

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """Return state `[state_dim]` and command `[2]` of a row."""
        return self._states[idx], self._commands[idx]
