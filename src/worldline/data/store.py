"""Columns of rows in a ring, and the index of the episodes in them.

An episode of n steps takes n + 1 rows in one piece: its steps, then the closing row (see `batch.py`). So every window
of an episode is one contiguous slice of each column. An episode never wraps around the end of the ring: where the end
is too short for it, the rest of the ring stays empty until the ring comes round again.

Memory is taken as it is needed: columns double until they can hold what the capacity allows, and an operating system
gives memory to pages that are written, not to those that are merely allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.episode import Array, Episode, unnamed_obs

TERMINATION, IS_FIRST, STEP, OBS = range(4)  # what the four booleans of a row of the column "flags" say
_STEP_FLAGS = (False, False, True, True)  # of an ordinary step

_FIRST_ROWS = 256  # rows of the first allocation
_ROW, _STEPS, _TRUNCATED = range(3)  # columns of the index


class EpisodeStore(Protocol):
    """Columns of rows with whole episodes in them, wherever they are kept."""

    columns: dict[str, Array]  # [rows, *shape]: "obs" or each "obs.KEY", "actions", "rewards", "flags", ...
    num_rows: int  # of every column
    version: int  # changes whenever the index or the columns do

    @property
    def first_rows(self) -> Array:
        """`[E]` row of each episode's first step."""
        ...

    @property
    def steps(self) -> Array:
        """`[E]` number of steps of each episode; its closing row follows them."""
        ...

    @property
    def truncated(self) -> Array:
        """`[E]` bool, whether each episode was cut off by a time limit."""
        ...


def is_obs(name: str) -> bool:
    """Tell whether a column holds observations."""
    return name == "obs" or name.startswith("obs.")


def pieces(store: EpisodeStore, column: Array) -> Iterator[Array]:
    """Return views `[n, ...]` of the steps of a column of `store`, episode by episode."""
    for row, steps in zip(store.first_rows.tolist(), store.steps.tolist(), strict=True):
        yield column[row : row + steps]


def read_episode(store: EpisodeStore, index: int, meta: Mapping[str, Any]) -> Episode:
    """Return a copy of an episode of `store`, with actions as they are stored."""
    row, steps = int(store.first_rows[index]), int(store.steps[index])
    columns = {name: np.array(column[row : row + steps + 1]) for name, column in store.columns.items()}
    obs = {name: column for name, column in columns.items() if is_obs(name)}
    has_final_obs = columns["flags"][-1, OBS]
    return Episode(
        obs=unnamed_obs({name: column[:-1] for name, column in obs.items()}),
        actions=columns["actions"][:-1],
        rewards=columns["rewards"][:-1],
        terminated=bool(columns["flags"][-2, TERMINATION]),
        truncated=bool(store.truncated[index]),
        final_obs=unnamed_obs({name: column[-1] for name, column in obs.items()}) if has_final_obs else None,
        meta=meta,
    )


def write_rows(column: Array, values: Array, closing: Array | int) -> None:
    """Fill the rows `[n + 1, ...]` of an episode in one column: its steps `[n, ...]`, then the closing row."""
    column[:-1] = values
    column[-1] = closing


def write_flags(flags: Array, *, terminated: bool, has_final_obs: bool) -> None:
    """Fill the rows `[n + 1, 4]` of an episode in the column "flags"."""
    flags[:] = _STEP_FLAGS
    flags[0, IS_FIRST] = True
    flags[-2, TERMINATION] = terminated
    flags[-1] = False
    flags[-1, OBS] = has_final_obs


class RowStore:
    """Columns `[rows, *shape]` with whole episodes in them, oldest first out.

    Args:
        layout: Shape of one row and dtype, by column name; "flags" must be four booleans.
        capacity: The most steps to keep; closing rows do not count.
    """

    def __init__(self, layout: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], capacity: int) -> None:
        self.capacity = capacity
        self.columns: dict[str, Array] = {
            name: np.empty((0, *shape), dtype=dtype) for name, (shape, dtype) in layout.items()
        }
        self.num_rows = 0  # allocated
        self.num_steps = 0
        self.version = 0  # changes whenever the index or the columns do
        self._index = np.empty((64, 3), dtype=np.int64)
        self._begin = self._end = 0  # the live part of the index

    @property
    def num_episodes(self) -> int:
        """Number of episodes held."""
        return self._end - self._begin

    @property
    def first_rows(self) -> Array:
        """`[E]` row of each episode's first step, oldest episode first."""
        return self._index[self._begin : self._end, _ROW]

    @property
    def steps(self) -> Array:
        """`[E]` number of steps of each episode, oldest first."""
        return self._index[self._begin : self._end, _STEPS]

    @property
    def truncated(self) -> Array:
        """`[E]` bool, whether each episode was cut off by a time limit, oldest first."""
        return self._index[self._begin : self._end, _TRUNCATED].astype(bool)

    def append(self, columns: Mapping[str, Array], closing: Mapping[str, Array], block: EpisodeBlock) -> None:
        """Add the episodes of a block, and evict as many of the oldest as that takes.

        Args:
            columns: `[N, *shape]` of every column but the flags.
            closing: `[E, *shape]`, what closing rows hold; zero in columns that it lacks.
            block: How long the episodes are, and how they ended.
        """
        start = 0
        for index, end in enumerate(block.ends.tolist()):
            steps = end - start
            row = self._make_room(steps)
            for name, values in columns.items():
                rows = self.columns[name][row : row + steps + 1]
                write_rows(rows, values[start:end], closing[name][index] if name in closing else 0)
            flags = self.columns["flags"][row : row + steps + 1]
            write_flags(flags, terminated=block.terminated[index], has_final_obs=block.has_final_obs[index])
            self._commit(row, steps, truncated=bool(block.truncated[index]))
            start = end

    def _make_room(self, steps: int) -> int:
        """Return the first of `steps + 1` free rows."""
        assert 1 <= steps <= self.capacity
        while self.num_steps + steps > self.capacity:
            self._evict()
        row = self._free_row(steps + 1)
        if row is None:
            self._grow(steps + 1)
            row = self._free_row(steps + 1)
        assert row is not None
        return row

    def _commit(self, first_row: int, steps: int, *, truncated: bool) -> None:
        """Enter an episode whose rows have been written into the index."""
        if self._end == len(self._index):
            live = self._index[self._begin : self._end]
            self._index = np.empty((max(64, 2 * len(live)), 3), dtype=np.int64)
            self._index[: len(live)] = live
            self._begin, self._end = 0, len(live)
        self._index[self._end] = (first_row, steps, truncated)
        self._end += 1
        self.num_steps += steps
        self.version += 1

    def _evict(self) -> None:
        self.num_steps -= int(self._index[self._begin, _STEPS])
        self._begin += 1
        self.version += 1

    def _free_row(self, rows: int) -> int | None:
        if self.num_episodes == 0:
            return 0 if rows <= self.num_rows else None
        oldest = int(self._index[self._begin, _ROW])
        newest, steps, _ = self._index[self._end - 1].tolist()
        head: int = newest + steps + 1
        if newest < oldest:  # the ring has come round: free is what lies between the newest and the oldest
            return head if head + rows <= oldest else None
        if head + rows <= self.num_rows:
            return head
        return 0 if rows <= oldest else None

    def _grow(self, rows: int) -> None:
        """Move everything, oldest first, to the front of larger columns that have room for `rows` more."""
        needed = self.num_steps + self.num_episodes + rows
        episodes_at_capacity = self.capacity * max(1, self.num_episodes) // max(1, self.num_steps)
        enough = self.capacity + episodes_at_capacity + 2 * rows
        self._allocate(max(needed + needed // 8, min(2 * self.num_rows, enough), min(_FIRST_ROWS, enough)))

    def _allocate(self, num_rows: int) -> None:
        pieces = self._live_pieces()
        for name, column in self.columns.items():
            larger = np.empty((num_rows, *column.shape[1:]), dtype=column.dtype)
            at = 0
            for piece in pieces:
                larger[at : at + piece.stop - piece.start] = column[piece]
                at += piece.stop - piece.start
            self.columns[name] = larger
        self.num_rows = num_rows
        rows = self.steps + 1
        self._index[self._begin : self._end, _ROW] = np.cumsum(rows) - rows
        self.version += 1

    def _live_pieces(self) -> list[slice]:
        """Return the rows in use, oldest first: one piece, or two once the ring has come round."""
        if self.num_episodes == 0:
            return []
        first, ends = self.first_rows, self.first_rows + self.steps + 1
        if first[-1] >= first[0]:
            return [slice(int(first[0]), int(ends[-1]))]
        turn = int(np.argmax(first < first[0]))
        return [slice(int(first[0]), int(ends[turn - 1])), slice(int(first[turn]), int(ends[-1]))]
