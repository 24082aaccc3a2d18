"""Zarr of diffusion policy: read and written.

A folder in zarr's format 2:

    data/KEY            [N, *obs] every observation, episode after episode
    data/action         [N, A]
    data/reward         [N], optional (0 without it)
    meta/episode_ends   [E], the number of rows up to and including each episode

Row t has the observation and the action taken there, as here. How an episode ended and what its last step led to is not
in the layout: it is read as cut off (truncated), without a final observation. Rows after the last end belong to no
episode and are left out. An archive `.zarr.zip` is to be unpacked first.

Worldline adds the group `worldline`, so that a round trip is exact: `terminated`, `truncated`, `has_final_obs`,
`final_obs/KEY` and `meta` (JSON in uint8). Chunks are read by our own few lines: the zarr package would unpickle arrays
of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.recording import (
    DAMAGED,
    Recording,
    make_spec,
    meta_from_bytes,
    meta_to_bytes,
    obs_names,
    one_episode,
)
from worldline.data.formats.zarr_folder import ZarrFolder, ZarrWriter, is_zarr
from worldline.data.store import OBS, TERMINATION, EpisodeStore, is_obs, pieces
from worldline.episode import Array, DataSpec, unnamed_obs
from worldline.errors import DataError, FileError
from worldline.files import new_folder

_FORMAT = 1
_PLAIN = "state"  # the key of an observation that has none
_ENDS = "meta/episode_ends"
_NO_OBS = ("action", "reward")
_OWN = "worldline"


def detect(path: Path) -> bool:
    """Tell whether this is such a folder."""
    return is_zarr(path / _ENDS) and is_zarr(path / "data" / "action")


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a folder.

    Raises:
        FileError: It is missing, damaged or hostile, or lacks an array.
        DataError: Its arrays do not fit together.
    """
    return ZarrRecording(ZarrFolder(path, max_bytes))


class ZarrRecording(Recording):
    """An open folder of zarr."""

    def __init__(self, folder: ZarrFolder) -> None:
        self.path = folder.path
        keys = folder.arrays("data")
        attributes = folder.attributes("")
        version = attributes.get("worldline_format")
        if version not in (None, _FORMAT):
            raise FileError(f"{self.path} has format {version!r}; this release reads {_FORMAT}. Update Worldline.")
        self._columns = {key: folder.array(f"data/{key}") for key in keys}
        if "action" not in keys:
            raise FileError(f"{self.path} lacks data/action. It has {', '.join(keys)[:200]}. Write one row per step.")
        self._names = obs_names(
            self.path, [key for key in keys if key not in _NO_OBS], is_plain=attributes.get("plain_obs") is True
        )
        rows = self._columns["action"].shape[0]
        for key, column in self._columns.items():
            if column.shape[0] != rows:
                raise DataError(f"{self.path}: data/{key} has {column.shape[0]} rows; expected {rows}, one per step.")
        self._ends = self._read_ends(folder, rows)
        self.num_episodes, self.num_steps = len(self._ends), int(self._ends[-1])
        self.num_orphan_rows = rows - self.num_steps
        self._read_own(folder, version)
        shapes = {name: self._columns[key].shape[1:] for key, name in self._names.items()}
        sizes = attributes.get("action_sizes") if version else None
        if sizes is not None and not (isinstance(sizes, list) and all(type(size) is int for size in sizes)):
            raise DataError(f"{self.path}: action_sizes is no list of numbers. {DAMAGED}")
        actions = self._columns["action"]
        is_counted = sizes is None and actions.dtype.kind in "iu" and len(actions.shape) == 1
        self.spec = make_spec(self.path, shapes, actions.read(0, None if is_counted else 1), sizes)
        if version:
            self.obs_dtype = unnamed_obs({name: self._columns[key].dtype for key, name in self._names.items()})

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, one by one."""
        start = 0
        for index, end in enumerate(self._ends.tolist()):
            actions = self._columns["action"].read(start, end)
            reward = self._columns.get("reward")
            yield one_episode(
                f"{self.path}: episode {index}",
                obs={name: self._columns[key].read(start, end) for key, name in self._names.items()},
                actions=actions,
                rewards=np.zeros(len(actions), np.float32) if reward is None else reward.read(start, end),
                terminated=bool(self._terminated[index]),
                truncated=bool(self._truncated[index]),
                final_obs={name: final[index] for name, final in self._finals.items()}
                if self._has_final_obs[index]
                else None,
                meta=self._meta[index],
            )
            start = end

    def close(self) -> None:
        """Let the files go: none is open between two reads."""

    def _read_ends(self, folder: ZarrFolder, rows: int) -> Array:
        column = folder.array(_ENDS)
        ends = column.read()
        is_sound = ends.ndim == 1 and ends.dtype.kind in "iu" and len(ends) > 0
        if not is_sound or ends[0] < 1 or ends[-1] > rows or (np.diff(ends.astype(np.int64)) < 1).any():
            raise DataError(f"{self.path}: {_ENDS} must grow, up to at most {rows}, the number of rows. {DAMAGED}")
        return ends.astype(np.int64)

    def _read_own(self, folder: ZarrFolder, version: Any) -> None:
        count = self.num_episodes
        self._finals: dict[str, Array] = {}
        self._meta: Sequence[Mapping[str, Any]] = [{}] * count
        if version is None:
            self._terminated, self._has_final_obs = np.zeros(count, bool), np.zeros(count, bool)
            self._truncated = np.ones(count, bool)
            return
        keys = ("terminated", "truncated", "has_final_obs")
        self._terminated, self._truncated, self._has_final_obs = (folder.array(f"{_OWN}/{key}").read() for key in keys)
        self._finals = {name: folder.array(f"{_OWN}/final_obs/{key}").read() for key, name in self._names.items()}
        for key, name in self._names.items():
            if self._finals[name].shape != (count, *self._columns[key].shape[1:]):
                raise DataError(f"{self.path}: final_obs/{key} has shape {self._finals[name].shape}. {DAMAGED}")
        if any(flags.shape != (count,) for flags in (self._terminated, self._truncated, self._has_final_obs)):
            raise DataError(
                f"{self.path}: {', '.join(keys)} must have one flag for each of {count} episodes. {DAMAGED}"
            )
        if "meta" in folder.arrays(_OWN):
            self._meta = meta_from_bytes(self.path, folder.array(f"{_OWN}/meta").read().tobytes(), count)


def write(path: Path, store: EpisodeStore, spec: DataSpec, *, meta: Sequence[Mapping[str, Any]]) -> None:
    """Write all episodes of a store, whole or not at all.

    Raises:
        FileError: The folder is there already, or cannot be written.
        DataError: An observation has the name of something else, or `meta` is not JSON.
    """
    closing = store.first_rows + store.steps
    flags = store.columns["flags"]
    keys = {name: _PLAIN if name == "obs" else name.removeprefix("obs.") for name in store.columns if is_obs(name)}
    if clash := [key for key in keys.values() if key in _NO_OBS or key.startswith(".")]:
        raise DataError(f"The layout has no place for an observation named {clash[0]!r}. Rename it.")
    text = meta_to_bytes(meta) if any(meta) else None
    try:
        with new_folder(path) as beside:
            writer = ZarrWriter(beside)
            attributes = {"worldline_format": _FORMAT, "action_sizes": spec.action_sizes, "plain_obs": "obs" in keys}
            writer.group("", attributes)
            for group in ("data", "meta", _OWN, f"{_OWN}/final_obs"):
                writer.group(group)
            for name, key in {**keys, "actions": "action", "rewards": "reward"}.items():
                column = store.columns[name]
                shape = (int(store.steps.sum()), *column.shape[1:])
                writer.array(f"data/{key}", shape, column.dtype, pieces(store, column))
            for name, key in keys.items():
                writer.whole(f"{_OWN}/final_obs/{key}", store.columns[name][closing])
            writer.whole(_ENDS, np.cumsum(store.steps))
            writer.whole(f"{_OWN}/terminated", flags[closing - 1, TERMINATION])
            writer.whole(f"{_OWN}/truncated", store.truncated)
            writer.whole(f"{_OWN}/has_final_obs", flags[closing, OBS])
            if text is not None:
                writer.whole(f"{_OWN}/meta", np.frombuffer(text, dtype=np.uint8))
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}. Choose another name or folder.") from error
