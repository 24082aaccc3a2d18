"""Data sets whose samples are dicts: recorded trajectories, and random numbers in their place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from worldline.batch import WindowSpec
from worldline.data.buffer import ReplayBuffer
from worldline.data.dataset import Dataset as MappedEpisodes
from worldline.data.loading import mapped_folder
from worldline.data.store import STEP, is_obs
from worldline.data.windows import Windows
from worldline.episode import Array, is_channels_first, is_image
from worldline.errors import ConfigError, DataError, FileError, nearest
from worldline.statistics import ColumnStatistics

__all__ = ["INSTRUCTIONS", "DummyTrajectoryDataset", "TrajectoryDataset"]

Transform = Callable[[dict[str, Any]], dict[str, Any]]

_STATE = "state"  # what observations without a name are called
_SINGLE = WindowSpec(closing_row=False)

INSTRUCTIONS = (
    "reach the target",
    "pick up the red cube",
    "place the cube on the plate",
    "open the gripper",
    "push the block to the left",
)


class DummyTrajectoryDataset(Dataset[dict[str, Any]]):
    """Random states and actions, the same for one seed: to see that things fit together.

    A sample is `{"observations": {"state": [obs_dim]}, "actions": [action_dim]}` of float32, states from a standard
    normal distribution and actions in [-1, 1]. Where asked for it has `observations["image"]`, float32 `[3, H, W]` in
    [0, 1], and "language", one of five instructions in turn.
    """

    def __init__(
        self,
        num_samples: int = 1000,
        obs_dim: int = 20,
        action_dim: int = 4,
        image_size: tuple[int, int] = (128, 128),
        include_image: bool = False,
        include_language: bool = False,
        seed: int = 42,
    ) -> None:
        generator = np.random.default_rng(seed)
        self._states = torch.from_numpy(generator.standard_normal((num_samples, obs_dim), dtype=np.float32))
        self._actions = torch.from_numpy(2 * generator.random((num_samples, action_dim), dtype=np.float32) - 1)
        self._image_shape = (3, *image_size) if include_image else None
        self._include_language = include_language
        self._seed = seed

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # from the end where it is negative; beyond either end an error
        observations = {"state": self._states[index]}
        if self._image_shape is not None:
            # Made when they are asked for: all of them would take hundreds of megabytes.
            pixels = np.random.default_rng((self._seed, index)).random(self._image_shape, dtype=np.float32)
            observations["image"] = torch.from_numpy(pixels)
        sample: dict[str, Any] = {"observations": observations, "actions": self._actions[index]}
        if self._include_language:
            sample["language"] = INSTRUCTIONS[index % len(INSTRUCTIONS)]
        return sample


class TrajectoryDataset(Dataset[dict[str, Any]]):
    """Windows of recorded episodes: one sample for every `seq_len` steps of an episode that follow each other.

    A sample is `{"observations": {KEY: [seq_len, *shape]}, "actions": [seq_len, A]}` of float32, without the first
    dimension where `seq_len` is 1. Images are `[C, H, W]` in [0, 1]. With `include_language` it has the episode's
    instruction as "language", with `windows` it has "mask" `[seq_len]`, which steps are real.

    Files of every format that Worldline reads will do. Those that take more than 2 GiB are imported once, into the
    folder `DATA.columns` beside them, and mapped into memory.

    Args:
        data_path: The file.
        seq_len: Steps of a sample.
        obs_keys: Which observations to read; None: all.
        include_language: Whether samples have instructions, which are the attribute `language` of each episode.
        transform: Called with each sample; returns what to use instead.
        windows: Which windows there are besides; a model's `windows` says which it learns from.

    Raises:
        FileError: The file is missing, damaged or hostile.
        DataError: There is no such observation, no instruction, or no episode of `seq_len` steps.
    """

    def __init__(
        self,
        data_path: str | os.PathLike[str],
        seq_len: int = 1,
        obs_keys: Sequence[str] | None = None,
        include_language: bool = False,
        transform: Transform | None = None,
        *,
        windows: WindowSpec | None = None,
    ) -> None:
        if isinstance(seq_len, bool) or not isinstance(seq_len, int) or seq_len < 1:
            raise ConfigError(f"seq_len must be a whole number of at least 1; got {seq_len!r}.")
        self.data_path = Path(data_path)
        self.seq_len = seq_len
        self.include_language = include_language
        self.transform = transform
        self._spec = windows
        self._obs_keys = None if obs_keys is None else tuple(obs_keys)
        self._open(read_episodes(self.data_path))

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return several samples, which are read together."""
        batch = self._gathered(indices)
        samples = [_row(batch, row) for row in range(len(indices))]
        return samples if self.transform is None else [self.transform(sample) for sample in samples]

    def gather(self, indices: list[int]) -> dict[str, Any]:
        """Return what `default_collate` makes of several samples, in a fraction of its time."""
        if self.transform is None:
            return self._gathered(indices)
        collated: dict[str, Any] = default_collate(self.__getitems__(indices))
        return collated

    @property
    def is_at_hand(self) -> bool:
        """Whether batches are copies from memory, with no code run for each sample."""
        return self.transform is None and isinstance(self._episodes, ReplayBuffer)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return self._episodes.num_episodes

    @property
    def has_language(self) -> bool:
        """Whether its episodes have instructions."""
        return isinstance(self._episodes._episode_meta(0).get("language"), str)

    @property
    def obs_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every observation of a step, by name."""
        columns = {key: tuple(column.shape[1:]) for key, column in self._columns.items()}
        return {key: _channels_first(shape) if is_image(shape) else shape for key, shape in columns.items()}

    @property
    def action_dim(self) -> int:
        """A, how many numbers an action has."""
        return self._episodes.spec.action_dim

    def statistics(self) -> dict[str, ColumnStatistics]:
        """Return the statistics of every column but images, over all steps."""
        found = self._episodes.statistics()
        kept = {_column(key) for key in self._columns} | {"obs", "actions", "rewards"}
        return {name: column for name, column in found.items() if name in kept}

    def with_windows(self, seq_len: int, windows: WindowSpec, *, include_language: bool = False) -> TrajectoryDataset:
        """Return the same episodes in other windows; nothing is read again.

        Raises:
            DataError: There is no instruction.
        """
        part = TrajectoryDataset.__new__(TrajectoryDataset)
        part.__dict__.update(self.__dict__)
        part.seq_len, part._spec, part.include_language = seq_len, windows, include_language
        part._open(self._episodes)
        return part

    def split(self, held_out: float = 0.1, *, seed: int = 0) -> tuple[TrajectoryDataset, TrajectoryDataset]:
        """Return two data sets, the second with the fraction `held_out` of the episodes.

        `random_split` divides windows, of which those of one episode resemble each other: what is held out then tells
        little.

        Raises:
            ConfigError: `held_out` is not between 0 and 1.
            DataError: There are fewer than two episodes.
        """
        train, test = (self._part(episodes) for episodes in self._episodes.split(held_out, seed=seed))
        return train, test

    def __getstate__(self) -> dict[str, Any]:
        # Windows are views; pickled they would be copies.
        dropped = ("_windows", "_columns")
        return {name: value for name, value in self.__dict__.items() if name not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(self._episodes)

    def _part(self, episodes: ReplayBuffer | MappedEpisodes) -> TrajectoryDataset:
        part = TrajectoryDataset.__new__(TrajectoryDataset)
        part.__dict__.update(self.__dict__)
        part._open(episodes)
        return part

    def _open(self, episodes: ReplayBuffer | MappedEpisodes) -> None:
        store = episodes._episode_store()
        self._episodes = episodes
        columns = {_key(name): column for name, column in store.columns.items() if is_obs(name)}
        for key in self._obs_keys or ():
            if key not in columns:
                raise DataError(f"{self.data_path} has no observation {key!r}. {nearest(key, columns)}")
        self._columns = {key: columns[key] for key in (columns if self._obs_keys is None else self._obs_keys)}
        self._windows = Windows(store, self.seq_len, self._spec or _SINGLE)
        self._chosen: Array | None = None  # numbers of the windows that are samples, where not all are
        if self._spec is None and (short := store.steps < self.seq_len).any():
            # An episode that is too short has one window, which is padded.
            numbers = np.arange(self._windows.num_starts)
            self._chosen = numbers[~short[self._windows.episodes_of(numbers)]]
        self._num_samples = self._windows.num_starts if self._chosen is None else len(self._chosen)
        if self._num_samples == 0:
            raise DataError(f"{self.data_path} has no episode of {self.seq_len} steps. Lower seq_len.")
        if self.include_language:
            self._languages = [_language(self.data_path, index, episodes) for index in range(episodes.num_episodes)]

    def _gathered(self, indices: Sequence[int]) -> dict[str, Any]:
        numbers = np.array([range(len(self))[index] for index in indices])
        if self._chosen is not None:
            numbers = self._chosen[numbers]
        found = self._windows.gather(self._windows.locate(numbers))
        squeezed = self.seq_len == 1 and self._spec is None
        tensors = {name: torch.from_numpy(window) for name, window in found.items()}
        batch: dict[str, Any] = {
            "observations": {key: _prepared(tensors[_column_of(key, tensors)]) for key in self._columns},
            "actions": tensors["actions"],
        }
        if squeezed:
            batch["observations"] = {key: value[:, 0] for key, value in batch["observations"].items()}
            batch["actions"] = batch["actions"][:, 0]
        if self._spec is not None:
            batch["mask"] = tensors["flags"][..., STEP]
        if self.include_language:
            batch["language"] = [self._languages[episode] for episode in self._windows.episodes_of(numbers).tolist()]
        return batch


def import_data(path: Path) -> Path | None:
    """Import a file that is too large for memory, unless it was, and return the folder; None for small files.

    Raises:
        FileError: It is missing, damaged, hostile, or newer than what was imported.
    """
    import_to = path.with_name(f"{path.name}.columns")
    if import_to.is_dir() and path.is_file() and import_to.stat().st_mtime < path.stat().st_mtime:
        raise FileError(f"{import_to} was imported from an older {path}. Delete the folder to import it again.")
    return mapped_folder(path, import_to)


def read_episodes(path: Path) -> ReplayBuffer | MappedEpisodes:
    """Return the episodes of a file of any format, in memory, or mapped where they take too much of it."""
    folder = import_data(path)
    return ReplayBuffer.load(path) if folder is None else MappedEpisodes(folder)


def _key(column: str) -> str:
    return _STATE if column == "obs" else column.removeprefix("obs.")


def _column(key: str) -> str:
    return f"obs.{key}"


def _column_of(key: str, columns: Mapping[str, Any]) -> str:
    return _column(key) if _column(key) in columns else "obs"


def _prepared(column: Tensor) -> Tensor:
    """Return observations `[B, T, *shape]` as float32, images `[B, T, C, H, W]` in [0, 1]."""
    shape = tuple(column.shape[2:])
    if not is_image(shape):
        return column.float()
    image = column if is_channels_first(shape) else column.movedim(-1, 2)
    return image.float().div_(255.0) if column.dtype == torch.uint8 else image.float()


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if is_channels_first(shape) else (shape[2], *shape[:2])


def _row(batch: Mapping[str, Any], row: int) -> dict[str, Any]:
    return {name: _row(value, row) if isinstance(value, Mapping) else value[row] for name, value in batch.items()}


def _language(path: Path, index: int, episodes: ReplayBuffer | MappedEpisodes) -> str:
    language = episodes._episode_meta(index).get("language")
    if not isinstance(language, str):
        raise DataError(f"Episode {index} of {path} has no instruction. Add the attribute `language`, or do without.")
    return language
