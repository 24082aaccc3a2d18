"""HDF5 of D4RL, one array for all episodes: read and written.

    observations       [N, *obs]
    actions            [N, A]
    rewards            [N], or [N, 1]
    terminals          [N], or [N, 1]; 1 where an episode ended for good
    timeouts           [N], optional; 1 where a time limit cut it off
    next_observations  [N, *obs], optional

Row t has the observation, the action taken there and the reward that followed, as here. An episode ends after every
terminal or timeout; steps after the last one are an episode that was cut off. `final_obs` is the row of
`next_observations` at the end of an episode, where there are any. Other groups (`infos`, `metadata`) are not read.

Worldline adds the group `worldline`, so that a round trip is exact: `episode_ends`, `terminated`, `truncated`,
`has_final_obs`, `final_observations` and `meta` (JSON in uint8), with attributes as in the other layouts. The layout
has one observation; a dict of them is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.hdf5 import check_format
from worldline.data.formats.hdf5_file import Column, Group, HDF5File, is_hdf5, opened
from worldline.data.formats.hdf5_writer import add_array, add_format, new_hdf5
from worldline.data.formats.recording import (
    DAMAGED,
    Recording,
    make_spec,
    meta_from_bytes,
    meta_to_bytes,
    one_episode,
)
from worldline.data.store import OBS, TERMINATION, EpisodeStore, pieces
from worldline.episode import Array, DataSpec
from worldline.errors import DataError

_KEYS = ("observations", "actions", "rewards", "terminals")
_OWN = "worldline"


def detect(path: Path) -> bool:
    """Tell whether this is such a file."""
    if not is_hdf5(path):
        return False
    with HDF5File(path) as file:
        return all(key in file.root for key in _KEYS)


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a file.

    Raises:
        FileError: It is missing, damaged or hostile, or lacks a key.
        DataError: Its arrays do not fit together.
    """
    return opened(D4RLRecording, path, max_bytes)


class D4RLRecording(Recording):
    """An open file of D4RL."""

    def __init__(self, file: HDF5File) -> None:
        self.path, self._file = file.path, file
        root = file.root
        root.require(*_KEYS)
        self._columns = {key: root.column(key) for key in ("observations", "actions", "rewards")}
        self.num_steps = self._columns["rewards"].shape[0]
        self._next = root.column("next_observations") if "next_observations" in root else None
        for column in (*self._columns.values(), *([] if self._next is None else [self._next])):
            _check_rows(self.path, column, self.num_steps)
        self._finals: Column | None = None
        own = root.group(_OWN) if _OWN in root else None
        if own is None:
            self._find_episodes(root)
        else:
            self._read_episodes(own)
        self.num_episodes = len(self._ends)
        sizes = None if own is None else own.numbers("action_sizes")
        actions = self._columns["actions"]
        is_counted = actions.dtype.kind in "iu" and sizes is None
        self.spec = make_spec(
            self.path,
            {"obs": self._columns["observations"].shape[1:]},
            actions.read(0, None if is_counted else 1),
            sizes,
        )
        if own is not None:
            self.obs_dtype = self._columns["observations"].dtype

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, one by one."""
        start = 0
        for index, end in enumerate(self._ends.tolist()):
            yield one_episode(
                f"{self.path}: episode {index}",
                obs={"obs": self._columns["observations"].read(start, end)},
                actions=self._columns["actions"].read(start, end),
                rewards=_flat(self._columns["rewards"].read(start, end)),
                terminated=bool(self._terminated[index]),
                truncated=bool(self._truncated[index]),
                final_obs=self._final_obs(index, end),
                meta=self._meta[index],
            )
            start = end

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _final_obs(self, index: int, end: int) -> dict[str, Array] | None:
        if self._finals is not None:
            return {"obs": self._finals.read(index, index + 1)[0]} if self._has_final_obs[index] else None
        return None if self._next is None else {"obs": self._next.read(end - 1, end)[0]}

    def _find_episodes(self, root: Group) -> None:
        terminals, timeouts = (self._flags(root, key) for key in ("terminals", "timeouts"))
        ends = np.flatnonzero(terminals | timeouts) + 1
        if not len(ends) or ends[-1] < self.num_steps:
            ends = np.append(ends, self.num_steps)
        self._ends = ends
        self._terminated = terminals[ends - 1]
        self._truncated = ~self._terminated
        self._meta: Sequence[Mapping[str, Any]] = [{}] * len(ends)

    def _flags(self, root: Group, key: str) -> Array:
        if key not in root:
            return np.zeros(self.num_steps, dtype=bool)
        column = root.column(key)
        _check_rows(self.path, column, self.num_steps)
        flags = _flat(column.read())
        if flags.ndim != 1 or not ((flags == 0) | (flags == 1)).all():
            raise DataError(f"{self.path}: {key} must be [{self.num_steps}] of 0 and 1. Correct it.")
        return flags.astype(bool)

    def _read_episodes(self, own: Group) -> None:
        check_format(own)
        own.require("episode_ends", "terminated", "truncated", "has_final_obs", "final_observations")
        columns = [own.column(key) for key in ("episode_ends", "terminated", "truncated", "has_final_obs")]
        self._finals = own.column("final_observations")
        for column in (*columns, self._finals):
            _check_rows(self.path, column, columns[0].shape[0])
        ends, *flags = (column.read() for column in columns)
        if ends.dtype.kind not in "iu" or ends.ndim != 1 or not len(ends) or ends[-1] != self.num_steps:
            raise DataError(f"{self.path}: episode_ends must grow up to {self.num_steps}. {DAMAGED}")
        if ends[0] < 1 or (np.diff(ends.astype(np.int64)) < 1).any():
            raise DataError(f"{self.path}: episode_ends must grow up to {self.num_steps}. {DAMAGED}")
        if self._finals.shape[1:] != self._columns["observations"].shape[1:]:
            raise DataError(f"{self.path}: final_observations has rows of shape {self._finals.shape[1:]}. {DAMAGED}")
        self._ends = ends.astype(np.int64)
        self._terminated, self._truncated, self._has_final_obs = (flag.astype(bool) for flag in flags)
        meta = own.column("meta").read().tobytes() if "meta" in own else None
        self._meta = [{}] * len(ends) if meta is None else meta_from_bytes(self.path, meta, len(ends))


def _flat(column: Array) -> Array:
    """Return `[N]`; some files of D4RL have rewards and terminals as `[N, 1]`."""
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column


def _check_rows(path: Path, column: Column, rows: int) -> None:
    if column.shape[0] != rows:
        raise DataError(f"{path}: {column.name} has {column.shape[0]} rows; expected {rows}, one per step.")


def write(path: Path, store: EpisodeStore, spec: DataSpec, *, meta: Sequence[Mapping[str, Any]]) -> None:
    """Write all episodes of a store, whole or not at all.

    Raises:
        FileError: The file cannot be written.
        DataError: Observations are a dict, or `meta` is not JSON.
    """
    if isinstance(spec.obs_shape, dict):
        raise DataError(
            f"D4RL's layout has one observation; this data has {', '.join(spec.obs_shape)}. Choose another format."
        )
    ends = np.cumsum(store.steps)
    num_steps = int(ends[-1])
    closing = store.first_rows + store.steps
    flags = store.columns["flags"]
    terminals = np.zeros(num_steps, dtype=bool)
    terminals[ends - 1] = flags[closing - 1, TERMINATION]
    timeouts = np.zeros(num_steps, dtype=bool)
    timeouts[ends - 1] = ~terminals[ends - 1]  # however the episode ended, so that readers never run two together
    with new_hdf5(path) as file:
        names = {"observations": "obs", "actions": "actions", "rewards": "rewards"}
        for key, name in names.items():
            column = store.columns[name]
            rows = file.create_dataset(key, (num_steps, *column.shape[1:]), column.dtype, track_times=False)
            for start, piece in zip(ends - store.steps, pieces(store, column), strict=True):
                rows[start : start + len(piece)] = piece
        add_array(file, "terminals", terminals)
        add_array(file, "timeouts", timeouts)
        own = file.create_group(_OWN)
        add_format(own, spec.action_sizes, is_plain=True)
        add_array(own, "episode_ends", ends)
        add_array(own, "terminated", flags[closing - 1, TERMINATION])
        add_array(own, "truncated", store.truncated)
        add_array(own, "has_final_obs", flags[closing, OBS])
        add_array(own, "final_observations", store.columns["obs"][closing])
        if any(meta):
            add_array(own, "meta", np.frombuffer(meta_to_bytes(meta), dtype=np.uint8))
