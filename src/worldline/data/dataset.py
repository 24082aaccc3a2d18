"""Dataset: episodes in a folder of columns, and windows of them as batches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.columns import ColumnStore
from worldline.data.sampling import EpisodeSampler, split_episodes
from worldline.episode import Array, DataSpec


class Dataset(EpisodeSampler):
    """Episodes on disk that are sampled as those of a `ReplayBuffer` are: the same windows in the same order.

    Columns are mapped into memory, so a data set may be larger than RAM, and processes that read it share what is in
    RAM of it. Pickled (for the workers of a `DataLoader`) it is its path, and is opened again where it arrives.

    Args:
        path: A folder that `worldline convert` or `data.column_writer.write_columns` has written.
        obs_keys: The observations to read, where they are a dict; None: all.

    Raises:
        FileError: The folder is missing or damaged.
        DataError: There is no such observation.
    """

    def __init__(self, path: str | os.PathLike[str], *, obs_keys: Sequence[str] | None = None) -> None:
        super().__init__()
        self._store = ColumnStore(path, obs_keys)
        self._obs_keys = None if obs_keys is None else tuple(obs_keys)
        self._indices: Array | None = None  # of the folder's episodes, where they are not all

    def __repr__(self) -> str:
        return (
            f"Dataset({str(self.path)!r}, {self.num_transitions:,} transitions, {self.num_episodes:,} episodes, "
            f"obs_shape={self.spec.obs_shape}, action_dim={self.spec.action_dim})"
        )

    @property
    def path(self) -> Path:
        """The folder."""
        return self._store.path

    @property
    def spec(self) -> DataSpec:
        """What a model needs to know of this data."""
        return self._store.spec

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return self._store.num_episodes

    @property
    def num_transitions(self) -> int:
        """Number of steps, over all episodes; also `len(dataset)`."""
        return self._store.num_steps

    @property
    def meta(self) -> Sequence[Mapping[str, Any]]:
        """What is known of each episode, such as its instruction in `meta["language"]`."""
        return self._store.meta

    def split(self, held_out: float, *, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Return two data sets, the second with the fraction `held_out` of the episodes, drawn by `seed`.

        Each has at least one episode. Both read the same files; nothing is copied.

        Raises:
            ConfigError: `held_out` is not between 0 and 1.
            DataError: There are fewer than two episodes.
        """
        train, test = (self.subset(part) for part in split_episodes(self.num_episodes, held_out, seed=seed))
        return train, test

    def subset(self, indices: Array) -> Dataset:
        """Return the data set of the episodes with these numbers, `[E]`; nothing is copied."""
        subset = Dataset(self.path, obs_keys=self._obs_keys)
        subset._indices = indices if self._indices is None else self._indices[indices]
        subset._store.keep_episodes(subset._indices)
        return subset

    def verify(self) -> None:
        """Compare all files with their digests, which reads all of them.

        Raises:
            FileError: One has changed since it was written.
        """
        self._store.verify()

    def __getstate__(self) -> dict[str, Any]:
        indices = None if self._indices is None else np.array(self._indices)
        where = (self._seed, self._step, self._place)
        return {"path": os.fspath(self.path), "obs_keys": self._obs_keys, "indices": indices, "where": where}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"], obs_keys=state["obs_keys"])  # type: ignore[misc]
        if state["indices"] is not None:
            self._indices = state["indices"]
            self._store.keep_episodes(self._indices)
        self._seed, self._step, self._place = state["where"]

    def _episode_store(self) -> ColumnStore:
        return self._store

    def _episode_meta(self, index: int) -> Mapping[str, Any]:
        return self._store.meta[index]
