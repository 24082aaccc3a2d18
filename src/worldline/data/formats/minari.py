"""Minari data sets in HDF5: read.

A folder `NAME/data` with `main_data.hdf5` and `metadata.json`; the folder, the one above it or the HDF5 file is given.

    episode_0/observations   [T + 1, *obs], or a group of such arrays
    episode_0/actions        [T, A], or [T] indices
    episode_0/rewards, terminations, truncations  [T]
    episode_0/@seed

Row t has the observation, the action taken there and the reward that followed, as here; the observation at T is
`final_obs`. Of `infos` nothing is read.

`metadata.json` says what the numbers mean: how many choices an action has and which number is the first of them, and
which observations are pictures, of which every one is stored as a JPEG from 32 x 32 on. Without it, discrete actions
have the highest index plus one choices. Texts are no observations here; where there is one, such as the mission of
MiniGrid, what it says at first becomes `meta["language"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.hdf5_file import Column, Group, HDF5File, is_hdf5, opened
from worldline.data.formats.hdf5_ragged import RaggedColumn
from worldline.data.formats.minari_meta import read_metadata
from worldline.data.formats.recording import MAX_META_BYTES, Recording, make_spec, obs_names, one_episode
from worldline.data.formats.video import decode_picture
from worldline.episode import Array
from worldline.errors import DataError, FileError

_DATA, _METADATA = "main_data.hdf5", "metadata.json"
_EPISODE = "episode_"
_NEEDED = ("observations", "actions", "rewards", "terminations", "truncations")


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


class _Pictures:
    """The pictures of an episode, each of them a JPEG."""

    def __init__(self, file: HDF5File, source: Column | RaggedColumn, shape: tuple[int, ...]) -> None:
        self._file, self._source = file, source
        num_rows = source.num_rows if isinstance(source, RaggedColumn) else source.shape[0]
        self.shape = (num_rows, *shape)
        file.declare(f"the pictures of {source.name}", int(np.prod(self.shape)))

    def read(self) -> Array:
        pictures = np.empty(self.shape, dtype=np.uint8)
        for row, content in enumerate(self._contents()):
            pictures[row] = decode_picture(self._file.path, content, self.shape[1:])
        return pictures

    def _contents(self) -> Iterator[bytes]:
        if isinstance(self._source, RaggedColumn):
            return (self._source.read(row) for row in range(self.shape[0]))
        return (row.tobytes() for row in self._source.read())


class MinariRecording(Recording):
    """An open data set of Minari."""

    def __init__(self, file: HDF5File) -> None:
        self.path, self._file = file.path, file
        self._keys = file.root.numbered(_EPISODE)
        if not self._keys:
            raise FileError(f"{self.path} has no episodes. Expected groups named {_EPISODE}0 and so on.")
        self.num_episodes = len(self._keys)
        self._described = read_metadata(self.path.with_name(_METADATA))
        first = self._episode(self._keys[0])
        self._is_plain = not first.is_group("observations")
        observations, texts = self._observations(first)
        self.left_out = tuple(texts) if len(texts) > 1 else ()
        self._names = {"": "obs"} if self._is_plain else obs_names(self.path, list(observations), is_plain=False)
        sizes = self._action_sizes()
        actions = first.column("actions").read(0, 1) if sizes is None else np.zeros((1, sum(sizes)))
        shapes = {name: observations[key].shape[1:] for key, name in self._names.items()}
        self.spec = make_spec(self.path, shapes, actions, sizes)

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, one by one."""
        start = np.asarray(self._described.action_start)
        for key in self._keys:
            episode = self._episode(key)
            rewards = episode.column("rewards").read()
            steps = len(rewards)
            columns, texts = self._observations(episode)
            if columns.keys() != self._names.keys() or any(col.shape[0] != steps + 1 for col in columns.values()):
                raise DataError(
                    f"{self.path}: {key}/observations has not {steps + 1} rows of every observation. Every column "
                    f"needs one row per step, and one more for what the last step led to."
                )
            obs = {self._names[key]: column.read() for key, column in columns.items() if self._is_read(key)}
            actions = episode.column("actions").read()
            yield one_episode(
                f"{self.path}: {key}",
                obs={name: column[:-1] for name, column in obs.items()},
                actions=actions - (start[0] if actions.ndim == 1 else start) if start.any() else actions,
                rewards=rewards,
                terminated=_last(episode, "terminations"),
                truncated=_last(episode, "truncations"),
                final_obs={name: column[-1] for name, column in obs.items()},
                meta=self._meta(episode, texts),
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _episode(self, key: str) -> Group:
        group = self._file.root.group(key)
        group.require(*_NEEDED)
        return group

    def _observations(self, episode: Group) -> tuple[dict[str, Column | _Pictures], dict[str, RaggedColumn]]:
        """Return the observations of an episode, and those that are texts, by key."""
        ragged: dict[str, RaggedColumn] = {}
        columns: dict[str, Column | RaggedColumn] = {}
        if not self._is_plain:
            columns |= episode.group("observations").columns(ragged=ragged)
        elif (rows := episode.ragged("observations")) is None:
            columns[""] = episode.column("observations")
        else:
            ragged[""] = rows
        texts = {key: column for key, column in ragged.items() if column.is_text}
        columns |= {key: column for key, column in ragged.items() if not column.is_text}
        return {key: self._decoded(key, column) for key, column in columns.items()}, texts

    def _decoded(self, key: str, column: Column | RaggedColumn) -> Column | _Pictures:
        """Return an observation as it is, or as pictures where its rows are JPEGs."""
        shape = self._described.pictures.get(key)
        is_raw = isinstance(column, Column) and column.shape[1:] == shape
        if shape is not None and not is_raw:
            return _Pictures(self._file, column, shape)
        if isinstance(column, RaggedColumn):
            raise FileError(
                f"{self.path}: {column.name} has rows of any length, and {_METADATA} does not say that they are "
                f"pictures. Restore {_METADATA} from a copy."
            )
        return column

    def _is_read(self, key: str) -> bool:
        return self._names[key] not in self.unread

    def _action_sizes(self) -> tuple[int, ...] | None:
        """Count the steps, and return how many choices there are of discrete actions, None of continuous ones."""
        self.num_steps = 0
        highest, is_index = 1, False
        sizes = self._described.action_sizes
        for key in self._keys:
            column = self._episode(key).column("actions")
            self.num_steps += column.shape[0]
            if sizes is None and column.dtype.kind in "iu" and len(column.shape) == 1:
                is_index, highest = True, max(highest, int(column.read().max(initial=0)))
        return (highest + 1,) if is_index else sizes

    def _meta(self, episode: Group, texts: dict[str, RaggedColumn]) -> dict[str, Any]:
        seed = episode.numbers("seed")
        meta: dict[str, Any] = {} if not seed else {"seed": int(seed[0])}
        for column in texts.values() if len(texts) == 1 else ():
            content = column.read(0) if column.num_rows else b""
            if len(content) > MAX_META_BYTES:
                raise DataError(f"{self.path}: {column.name} has a text of {len(content):,} bytes. Leave it out.")
            meta["language"] = content.decode(errors="replace")
        return meta


def _last(episode: Group, key: str) -> bool:
    flags: Array = episode.column(key).read()
    return bool(flags[-1:].any())


def _data_file(path: Path) -> Path | None:
    candidates = [path / _DATA, path / "data" / _DATA] if path.is_dir() else [path]
    return next((found for found in candidates if found.is_file() and not found.is_symlink()), None)
