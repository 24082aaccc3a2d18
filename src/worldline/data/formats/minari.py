"""Minari data sets in HDF5: read.

A folder `NAME/data` with `main_data.hdf5` and `metadata.json`; the folder, the one above it or the HDF5 file is given.

    episode_0/observations   [T + 1, *obs], or a group of such arrays
    episode_0/actions        [T, A], or [T] indices
    episode_0/rewards, terminations, truncations  [T]
    episode_0/@seed

Row t has the observation, the action taken there and the reward that followed, as here; the observation at T is
`final_obs`. Of `infos` nothing is read. How many choices a discrete action has is said by `metadata.json`; without it,
it is the highest index plus one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.hdf5_file import Column, Group, HDF5File, is_hdf5, opened
from worldline.data.formats.recording import Recording, make_spec, obs_names, one_episode
from worldline.episode import Array
from worldline.errors import DataError, FileError
from worldline.files import regular_size

_DATA, _METADATA = "main_data.hdf5", "metadata.json"
_EPISODE = "episode_"
_NEEDED = ("observations", "actions", "rewards", "terminations", "truncations")
_MAX_METADATA_BYTES = 1 << 20
_MAX_CHOICES = 1 << 20


def detect(path: Path) -> bool:
    """Tell whether this is such a folder or file."""
    found = _data_file(path)
    if found is None or not is_hdf5(found):
        return False
    with HDF5File(found) as file:
        episodes = file.root.numbered(_EPISODE)
        return bool(episodes) and all(key in file.root.group(episodes[0]) for key in _NEEDED)


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a data set.

    Raises:
        FileError: It is missing, damaged or hostile, or lacks a key.
        DataError: Its arrays do not fit together.
    """
    found = _data_file(path)
    if found is None:
        raise FileError(f"{path} has no {_DATA}. Give a data set of Minari that was written as HDF5.")
    return opened(MinariRecording, found, max_bytes)


class MinariRecording(Recording):
    """An open data set of Minari."""

    def __init__(self, file: HDF5File) -> None:
        self.path, self._file = file.path, file
        self._keys = file.root.numbered(_EPISODE)
        if not self._keys:
            raise FileError(f"{self.path} has no episodes. Expected groups named {_EPISODE}0 and so on.")
        self.num_episodes = len(self._keys)
        first = self._episode(self._keys[0])
        self._is_plain = not first.is_group("observations")
        observations = self._observations(first)
        self._names = {"": "obs"} if self._is_plain else obs_names(self.path, list(observations), is_plain=False)
        self.num_steps = 0
        highest = 1
        choices = _discrete_choices(self.path.with_name(_METADATA))
        for key in self._keys:
            column = self._episode(key).column("actions")
            self.num_steps += column.shape[0]
            if choices is None and column.dtype.kind in "iu" and len(column.shape) == 1:
                highest = max(highest, int(column.read().max(initial=0)))
        actions = first.column("actions").read(0, 1)
        if actions.ndim == 1 and actions.dtype.kind in "iu":
            actions = np.array([0, highest if choices is None else choices - 1])
        shapes = {name: observations[key].shape[1:] for key, name in self._names.items()}
        self.spec = make_spec(self.path, shapes, actions, None)

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, one by one."""
        for key in self._keys:
            episode = self._episode(key)
            rewards = episode.column("rewards").read()
            steps = len(rewards)
            columns = self._observations(episode)
            if columns.keys() != self._names.keys() or any(col.shape[0] != steps + 1 for col in columns.values()):
                raise DataError(
                    f"{self.path}: {key}/observations has not {steps + 1} rows of every observation. Every column "
                    f"needs one row per step, and one more for what the last step led to."
                )
            obs = {self._names[name]: column.read() for name, column in columns.items()}
            seed = episode.numbers("seed")
            yield one_episode(
                f"{self.path}: {key}",
                obs={name: column[:-1] for name, column in obs.items()},
                actions=episode.column("actions").read(),
                rewards=rewards,
                terminated=_last(episode, "terminations"),
                truncated=_last(episode, "truncations"),
                final_obs={name: column[-1] for name, column in obs.items()},
                meta={} if not seed else {"seed": int(seed[0])},
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _episode(self, key: str) -> Group:
        group = self._file.root.group(key)
        group.require(*_NEEDED)
        return group

    def _observations(self, episode: Group) -> dict[str, Column]:
        return {"": episode.column("observations")} if self._is_plain else episode.group("observations").columns()


def _last(episode: Group, key: str) -> bool:
    flags: Array = episode.column(key).read()
    return bool(flags[-1:].any())


def _data_file(path: Path) -> Path | None:
    candidates = [path / _DATA, path / "data" / _DATA] if path.is_dir() else [path]
    return next((found for found in candidates if found.is_file() and not found.is_symlink()), None)


def _discrete_choices(path: Path) -> int | None:
    """Return how many choices a discrete action has, or None where nothing says it."""
    try:
        if regular_size(path) > _MAX_METADATA_BYTES:
            return None
        space: Any = json.loads(path.read_bytes())["action_space"]
        space = json.loads(space) if isinstance(space, str) else space
        choices = space["n"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return choices if type(choices) is int and 2 <= choices <= _MAX_CHOICES else None
