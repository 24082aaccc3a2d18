"""The `.npz` format of replay buffers: read and write.

The documented keys, which any tool can read and write:

| key         | shape             | meaning                                                          |
|-------------|-------------------|------------------------------------------------------------------|
| `obs`       | `[N, *obs_shape]` | observations of all steps, episode after episode                 |
| `actions`   | `[N, action_dim]` | actions; `[N]` or `[N, 1]` indices are read too                  |
| `rewards`   | `[N]`             |                                                                  |
| `dones`     | `[N]`             | 1 where an episode ended; `terminations` is read in its place    |
| `obs_shape` | `[rank]`          |                                                                  |
| `action_dim`| scalar            |                                                                  |
| `capacity`  | scalar            | optional; N without it                                           |

A file with these keys alone is split after every done. A done is taken as a termination, unless `terminations` is there
as well; steps after the last done are an episode that was cut off.

Worldline adds what those keys lose, so that a round trip is exact. `worldline_format` (1) says that the others are
there: `episode_ends [E]`, `terminated [E]`, `truncated [E]`, `has_final_obs [E]`, `final_obs [E, *obs_shape]`,
`action_sizes [K]` and `meta` (JSON in uint8). Dict observations have `obs.KEY`, `obs_shape.KEY` and `final_obs.KEY`
for each key instead of `obs`, `obs_shape` and `final_obs`.

Limits: arrays, as the file declares them and as a buffer stores them, may take 200 times the size of the file, or
256 MiB if that is more; `max_bytes` overrides it. One step's observation may take 32 MiB.
Reading makes two passes. The first checks everything in pieces of a few megabytes, so that refusing a file costs
next to no memory; the second copies.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.encode import data_spec, infer_action_sizes, settle_obs_dtype
from worldline.data.formats.archive import PIECE_BYTES, Archive
from worldline.data.formats.archive_writer import new_archive
from worldline.data.formats.recording import (
    MAX_ROW_BYTES,
    Recording,
    check_size,
    max_meta_bytes,
    meta_from_bytes,
    meta_to_bytes,
)
from worldline.data.shapes import checked_sizes
from worldline.data.store import OBS, TERMINATION, EpisodeStore, is_obs, pieces
from worldline.episode import Array, DataSpec, check_finite, unnamed_obs
from worldline.errors import DataError, FileError

_FORMAT = 1
_MAX_NUMBER = 1 << 53  # of steps, say; beyond it not every number can be told in float64
_HOW_TO_SAVE = "See docs/data.md for the keys, and save with np.savez(path, obs=..., actions=..., ...)."


def read(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Recording:
    """Open a file and check all of it; its episodes are then read block by block.

    Args:
        path: The file.
        max_bytes: The most that its arrays may take, instead of the limits above.

    Raises:
        FileError: The file is missing, damaged or hostile, lacks a key, or is beyond the limit.
        DataError: Its arrays do not fit together, or hold NaN or infinity.
    """
    return NpzRecording(path, max_bytes=max_bytes)


class NpzRecording(Recording):
    """An open file, all of whose values have been looked at."""

    is_checked = True

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None = None) -> None:
        self._archive = Archive(path)
        self.path = self._archive.path
        try:
            self._check(max_bytes)
        except BaseException:
            self._archive.close()
            raise
        self.num_episodes, self.num_steps = len(self._ends), self._steps

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, in blocks of whole ones that take a few megabytes (at least one episode)."""
        groups = _grouped(self._ends, max(1, PIECE_BYTES // self._row_bytes))
        steps = [int(self._ends[stop - 1]) - (int(self._ends[start - 1]) if start else 0) for start, stop in groups]
        counts = [stop - start for start, stop in groups]
        columns = {
            key: self._archive.runs(self._members[key], steps) for key in (*self._obs_names, "actions", "rewards")
        }
        finals = {name: self._archive.runs(self._members[key], counts) for name, key in self._final_names.items()}
        for start, stop in groups:
            obs = {name: next(columns[name]) for name in self._obs_names}
            ends = self._ends[start:stop] - (self._ends[start - 1] if start else 0)
            yield EpisodeBlock(
                obs=obs,
                actions=next(columns["actions"]),
                rewards=next(columns["rewards"]),
                ends=ends,
                terminated=self._terminated[start:stop],
                truncated=self._truncated[start:stop],
                final_obs={name: next(final) for name, final in finals.items()}
                or {name: column[ends - 1] for name, column in obs.items()},
                has_final_obs=self._has_final_obs[start:stop],
                meta=self._meta[start:stop],
            )

    def _check(self, max_bytes: int | None) -> None:
        is_own = "worldline_format" in self._archive.keys
        self._members = {key: self._archive.member(key) for key in self._wanted_keys(is_own)}
        self._check_limit(sum(member.num_bytes for member in self._members.values()), max_bytes)
        if is_own and (version := self._number("worldline_format")) != _FORMAT:
            raise FileError(f"{self.path} has format {version}; this release reads {_FORMAT}. Update Worldline.")
        self._check_lengths()
        shapes = {name: self._obs_shape(name) for name in self._obs_names}
        action_dim = self._number("action_dim")
        self._check_limit(self._stored_bytes(action_dim, is_own=is_own), max_bytes)
        for key in (*self._obs_names, *self._final_names.values(), "rewards", "actions"):
            for start, piece in _numbered(self._archive.pieces(self._members[key])):
                check_finite(f"{self.path}: {key}", piece, first_row=start)
        self.capacity = self._number("capacity") if "capacity" in self._members else self._steps
        if self.capacity < self._steps:
            raise DataError(f"{self.path} says capacity {self.capacity}, but has {self._steps} steps. Correct it.")
        if is_own:
            self._read_episodes()
            sizes = self._read_action_sizes(action_dim)
            self.obs_dtype = unnamed_obs({name: self._members[name].dtype for name in self._obs_names})
        else:
            self._find_episodes()
            sizes = self._find_action_sizes(action_dim)
            self.obs_dtype = None
        self.spec = data_spec(unnamed_obs(shapes), action_dim, sizes)

    def _wanted_keys(self, is_own: bool) -> list[str]:
        keys = self._archive.keys
        self._obs_names = ["obs"] if "obs" in keys else [key for key in keys if key.startswith("obs.")] or ["obs"]
        required = [*self._obs_names, "actions", "rewards", *map(_shape_key, self._obs_names), "action_dim"]
        self._final_names = {}
        if is_own:
            required += ["worldline_format", "episode_ends", "terminated", "truncated", "has_final_obs", "action_sizes"]
            self._final_names = {name: f"final_{name}" for name in self._obs_names}
            required += self._final_names.values()
        if "dones" not in keys and "terminations" not in keys:
            required.append("dones")
        if missing := [key for key in required if key not in keys]:
            found = f"It has {', '.join(keys[:20])}." if keys else "It is empty."
            raise FileError(f"{self.path} lacks {', '.join(missing)}. {found} {_HOW_TO_SAVE}")
        return required + [
            key for key in ("dones", "terminations", "capacity", "meta") if key in keys and key not in required
        ]

    def _check_limit(self, total: int, max_bytes: int | None) -> None:
        check_size(self.path, total, self._archive.size, max_bytes)

    def _stored_bytes(self, action_dim: int, *, is_own: bool) -> int:
        """Return what a buffer needs for the steps, whose dtypes and actions may be wider than those of the file."""
        obs_bytes = 0
        for name in self._obs_names:
            member = self._members[name]
            dtype = member.dtype if is_own else settle_obs_dtype(member.dtype, len(member.shape))
            obs_bytes += math.prod(member.shape[1:]) * dtype.itemsize
        return self._steps * (obs_bytes + 4 * action_dim + 8)

    def _check_lengths(self) -> None:
        rewards = self._members["rewards"]
        if len(rewards.shape) != 1:
            raise DataError(f"{self.path}: rewards has shape {rewards.shape}; expected [N]. Save rewards.reshape(-1).")
        self._steps = rewards.num_rows
        if self._steps == 0:
            raise DataError(f"{self.path} has no steps. Save at least one episode.")
        flags = [key for key in ("dones", "terminations") if key in self._members]
        for key in (*self._obs_names, "actions", *flags):
            shape = self._members[key].shape
            if not shape or shape[0] != self._steps or (key in flags and len(shape) != 1):
                expected = f"[{self._steps}]" if key in flags else f"[{self._steps}, ...]"
                raise DataError(
                    f"{self.path}: {key} has shape {shape}, but rewards has {self._steps} rows; expected {expected}. "
                    f"Every column needs one row per step."
                )
            if self._members[key].row_bytes > MAX_ROW_BYTES:
                raise FileError(
                    f"{self.path}: one row of {key} has shape {shape[1:]}; at most {MAX_ROW_BYTES:,} bytes."
                )
        self._row_bytes = max(1, sum(self._members[name].row_bytes for name in self._obs_names))

    def _obs_shape(self, name: str) -> tuple[int, ...]:
        stored = self._members[_shape_key(name)]
        shape = self._members[name].shape[1:]
        if 0 in shape:
            raise DataError(
                f"{self.path}: {name} has shape {self._members[name].shape}; every size must be at least 1."
            )
        if stored.shape != (len(shape),) or tuple(self._archive.read(stored).tolist()) != shape:
            raise DataError(
                f"{self.path}: {stored.key} is not the shape of one row of {name}, {shape}. Save "
                f"{stored.key}=np.array({name}.shape[1:])."
            )
        return shape

    def _number(self, key: str) -> int:
        member = self._members[key]
        value = self._archive.read(member).reshape(-1) if math.prod(member.shape) == 1 else np.zeros(0)
        if (
            value.size != 1
            or not np.isfinite(value[0])
            or value[0] != int(value[0])
            or not 1 <= value[0] <= _MAX_NUMBER
        ):
            raise DataError(f"{self.path}: {key} must be one whole number of at least 1. Save {key}=np.array(...).")
        return int(value[0])

    def _marked_rows(self, key: str) -> Array:
        """Return the rows `[M]` in which the flags `key [N]` are 1."""
        rows = []
        for start, piece in _numbered(self._archive.pieces(self._members[key])):
            if not ((piece == 0) | (piece == 1)).all():
                raise DataError(f"{self.path}: {key} has values other than 0 and 1. Save it as booleans.")
            rows.append(np.flatnonzero(piece) + start)
        return np.concatenate(rows)

    def _find_episodes(self) -> None:
        marked = {key: self._marked_rows(key) for key in ("dones", "terminations") if key in self._members}
        rows = np.unique(np.concatenate(list(marked.values())))
        terminated = np.isin(rows, marked["terminations"]) if "terminations" in marked else np.ones(len(rows), bool)
        ends, truncated = rows + 1, ~terminated
        if not len(ends) or ends[-1] < self._steps:
            ends = np.append(ends, self._steps)
            terminated, truncated = np.append(terminated, False), np.append(truncated, True)
        self._ends, self._terminated, self._truncated = ends, terminated, truncated
        self._has_final_obs = np.zeros(len(ends), bool)
        self._meta: Sequence[Mapping[str, Any]] = [{}] * len(ends)

    def _read_episodes(self) -> None:
        shape = self._members["episode_ends"].shape
        episode_keys = ["terminated", "truncated", "has_final_obs", *self._final_names.values()]
        row_shapes = {key: self._members[name].shape[1:] for name, key in self._final_names.items()}
        for key in episode_keys:
            expected = (*shape, *row_shapes.get(key, ()))
            if len(shape) != 1 or self._members[key].shape != expected:
                raise DataError(
                    f"{self.path}: {key} has shape {self._members[key].shape}; expected {expected}. {_HOW_TO_SAVE}"
                )
        ends = self._archive.read(self._members["episode_ends"]).astype(np.int64)
        if not len(ends) or ends[0] < 1 or (np.diff(ends) < 1).any() or ends[-1] != self._steps:
            raise DataError(
                f"{self.path}: episode_ends must grow up to {self._steps}, the number of steps. {_HOW_TO_SAVE}"
            )
        if "dones" in self._members and not np.array_equal(self._marked_rows("dones") + 1, ends):
            raise DataError(f"{self.path}: dones and episode_ends disagree. Leave out worldline_format to go by dones.")
        self._ends = ends
        self._terminated, self._truncated, self._has_final_obs = (
            self._archive.read(self._members[key]).astype(bool) for key in episode_keys[:3]
        )
        self._meta = self._read_meta(len(ends))

    def _read_meta(self, num_episodes: int) -> Sequence[Mapping[str, Any]]:
        if "meta" not in self._members:
            return [{}] * num_episodes
        member = self._members["meta"]
        if member.dtype != np.uint8 or member.num_bytes > max_meta_bytes(num_episodes):
            raise DataError(f"{self.path}: meta is not JSON in uint8, or too long. Leave it out.")
        return meta_from_bytes(self.path, self._archive.read(member).tobytes(), num_episodes)

    def _read_action_sizes(self, action_dim: int) -> tuple[int, ...]:
        member = self._members["action_sizes"]
        if len(member.shape) != 1 or member.num_rows > action_dim or member.dtype.kind not in "iu":
            raise DataError(
                f"{self.path}: action_sizes has shape {member.shape}; expected [K] integers. {_HOW_TO_SAVE}"
            )
        return checked_sizes(tuple(self._archive.read(member).tolist()), action_dim)

    def _find_action_sizes(self, action_dim: int) -> tuple[int, ...]:
        """Return the sizes that every piece of the actions agrees on: discrete only if all of them are."""
        found = {infer_action_sizes(piece, action_dim) for piece in self._archive.pieces(self._members["actions"])}
        return next(iter(found)) if len(found) == 1 else ()


def write(
    path: str | os.PathLike[str],
    store: EpisodeStore,
    spec: DataSpec,
    *,
    meta: Sequence[Mapping[str, Any]],
    capacity: int | None = None,
    compress: bool = False,
) -> None:
    """Write all episodes of a store, whole or not at all: to a sibling first, which then takes the file's place.

    Raises:
        FileError: The file cannot be written.
        DataError: `meta` is not JSON.
    """
    num_steps = int(store.steps.sum())
    arrays = _arrays(store, spec, meta)
    arrays["capacity"] = np.array(num_steps if capacity is None else capacity)
    with new_archive(Path(path), compress=compress) as archive:
        for key, array in arrays.items():
            archive.add(key, array.shape, array.dtype, [array])
        for name in (*_obs_columns(store), "actions", "rewards"):
            column = store.columns[name]
            archive.add(name, (num_steps, *column.shape[1:]), column.dtype, pieces(store, column))


def _arrays(store: EpisodeStore, spec: DataSpec, meta: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return every array of the file but the long columns."""
    closing = store.first_rows + store.steps
    ends = np.cumsum(store.steps)
    flags = store.columns["flags"]
    terminated = flags[closing - 1, TERMINATION]
    dones = np.zeros(int(ends[-1]), dtype=np.float32)  # float32 as documented
    dones[ends - 1] = 1  # however the episode ended, so that other readers never run two together
    arrays = {
        "worldline_format": np.array(_FORMAT),
        "action_dim": np.array(spec.action_dim),
        "action_sizes": np.array(spec.action_sizes, dtype=np.int64),
        "dones": dones,
        "episode_ends": ends,
        "terminated": terminated,
        "truncated": store.truncated,
        "has_final_obs": flags[closing, OBS],
    }
    for name in _obs_columns(store):
        column = store.columns[name]
        arrays[_shape_key(name)] = np.array(column.shape[1:], dtype=np.int64)
        arrays[f"final_{name}"] = column[closing]
    if any(meta):
        arrays["meta"] = np.frombuffer(meta_to_bytes(meta), dtype=np.uint8)
    return arrays


def _obs_columns(store: EpisodeStore) -> list[str]:
    return [name for name in store.columns if is_obs(name)]


def _shape_key(name: str) -> str:
    return name.replace("obs", "obs_shape", 1)


def _numbered(pieces: Iterable[Array]) -> Iterator[tuple[int, Array]]:
    start = 0
    for piece in pieces:
        yield start, piece
        start += len(piece)


def _grouped(ends: Array, max_steps: int) -> list[tuple[int, int]]:
    """Return ranges of episodes with at most `max_steps` steps each, unless a single episode has more."""
    groups, start = [], 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + max_steps, side="right")))
        groups.append((start, stop))
        start = stop
    return groups
