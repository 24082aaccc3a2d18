"""Which windows there are, and in which order they are drawn.

Windows of T rows start at every row from which T rows of the same episode follow, its closing row included: an episode
of n steps has n + 1 rows and n + 2 - T starts. An episode with fewer than T rows has one start and is padded. Every
start is equally likely. So a long episode is drawn in proportion to its length, and the rows within T of either end of
an episode are seen less often than those in its middle, as in every replay that neither pads nor crosses episodes.

With `pad_end` windows start at every step, and are padded beyond the end of the episode. Then the last step, at which
the episode ended, is as often the first row of a window as any other, and not the second to last of one window only.
That costs rows, so it is for short windows.

Without `closing_row` an episode has its n steps alone, and n + 1 - T starts.

With `pad_start` windows also start up to so many rows before the episode. Those rows repeat its first observation, as
a policy that remembers some observations does at the start of an episode, and all else in them is zero.

The order is a function of (seed, step, batch size) and of the episodes held, and of nothing else: not of what was
sampled before, nor of where in memory an episode lies.
"""

from __future__ import annotations

import numpy as np

from worldline.batch import PLAIN_WINDOWS, WindowSpec
from worldline.data.commands import commands_of_rows
from worldline.data.store import EpisodeStore, is_obs
from worldline.episode import Array

_BLOCK_STEPS = 64  # steps whose randomness is drawn together
_BLOCK_NUMBERS = 1 << 16  # but never more numbers than this, where batches are large


class Windows:
    """The windows of `seq_len` rows that a store holds; valid for one version of it."""

    def __init__(self, store: EpisodeStore, seq_len: int, spec: WindowSpec = PLAIN_WINDOWS) -> None:
        self.version = store.version
        self.seq_len = seq_len
        self._first_rows = store.first_rows.copy()
        rows = store.steps + spec.closing_row  # [E] of each episode that windows may have
        self._last_rows = self._first_rows + rows - 1
        starts = store.steps if spec.pad_end else np.maximum(rows + 1 - seq_len, 1)
        starts = starts + spec.pad_start
        self._ends = np.cumsum(starts)  # [E] number of starts up to and including each episode
        # [E] from the number of a start to its row
        self._shift = self._first_rows - (self._ends - starts) - spec.pad_start
        self.num_starts = int(self._ends[-1])
        self._pads_start = spec.pad_start > 0
        self._is_padded = self._pads_start or bool((starts - 1 + seq_len > rows).any())
        self._num_rows = store.num_rows
        columns = store.columns | (
            {"commands": commands_of_rows(store.columns["rewards"], store.first_rows, store.steps)}
            if spec.commands
            else {}
        )
        self._columns = [
            _Windowed(name, column, (spec.obs_rows or seq_len) if is_obs(name) else seq_len)
            for name, column in columns.items()
        ]
        self._block_key: tuple[int, int, int] | None = None
        self._block = np.empty((0, 0), dtype=np.int64)

    def draw(self, batch_size: int, *, seed: int, step: int) -> Array:
        """Return the B starts that belong to `step`, for `gather`."""
        block_steps = max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // batch_size))
        block, row = divmod(step, block_steps)
        key = (seed, block, batch_size)
        if key != self._block_key:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, block))))
            numbers = (generator.random((block_steps, batch_size)) * self.num_starts).astype(np.int64)
            self._block = self.locate(numbers)
            self._block_key = key
        drawn: Array = self._block[row]
        return drawn

    def locate(self, numbers: Array) -> Array:
        """Return what `gather` needs of starts with these numbers, each from 0 to `num_starts - 1`: their rows.

        Where windows are padded it is the numbers themselves, because `gather` then needs the episodes as well.
        """
        if self._is_padded:
            return numbers
        rows: Array = numbers + self._shift[np.searchsorted(self._ends, numbers, side="right")]
        return rows

    def episodes_of(self, numbers: Array) -> Array:
        """Return in which episodes the starts with these numbers are, oldest first."""
        episodes: Array = np.searchsorted(self._ends, numbers, side="right")
        return episodes

    def gather(self, drawn: Array) -> dict[str, Array]:
        """Return windows `[B, T, ...]` of every column, zero where they are padded."""
        if not self._is_padded:
            return {column.name: column.gather(drawn) for column in self._columns}
        episodes = np.searchsorted(self._ends, drawn, side="right")
        starts = drawn + self._shift[episodes]
        rows = starts[:, None] + np.arange(self.seq_len)
        last_rows = self._last_rows[episodes][:, None]
        padding = rows > last_rows
        before = None
        if self._pads_start:
            first_rows = self._first_rows[episodes][:, None]
            before = rows < first_rows
            rows = np.maximum(rows, first_rows)
        if before is None and rows[:, -1].max() < self._num_rows:  # what follows the episode is read too, and blanked
            windows = {column.name: column.gather(starts) for column in self._columns}
        else:
            rows = np.minimum(rows, last_rows)
            windows = {column.name: column.gather_rows(rows) for column in self._columns}
        for name, window in windows.items():
            window[padding[:, : window.shape[1]]] = 0
            if before is not None and not is_obs(name):
                window[before] = 0
        return windows


class _Windowed:
    """A column `[rows, *shape]` seen as opaque items of one or T rows each, which overlap.

    NumPy copies an opaque item in one `memcpy`, which takes half the time of a gather of `[T, *shape]` windows whose
    elements it walks through.
    """

    def __init__(self, name: str, column: Array, seq_len: int) -> None:
        self.name = name
        self._dtype = column.dtype
        self._shape = (seq_len, *column.shape[1:])
        self._windows, self._rows = (_items(column, rows) for rows in (seq_len, 1))

    def gather(self, starts: Array) -> Array:
        """Return windows `[B, T, *shape]` from the rows `[B]` at which they start."""
        return self._shaped(self._windows[starts])

    def gather_rows(self, rows: Array) -> Array:
        """Return windows `[B, T, *shape]` from all of their rows, `[B, T]` or more."""
        return self._shaped(self._rows[rows[:, : self._shape[0]]])

    def _shaped(self, items: Array) -> Array:
        # The constructor is quicker than view and reshape, and the memory is as new.
        windows: Array = np.ndarray((len(items), *self._shape), self._dtype, items)
        return windows


def _items(column: Array, rows: int) -> Array:
    """Return the column as items of so many rows each, one starting at every row."""
    row_bytes = column.strides[0]
    items: Array = np.ndarray(
        (max(0, len(column) - rows + 1),),
        dtype=np.dtype((np.void, rows * row_bytes)),
        buffer=column,
        strides=(row_bytes,),
    )
    return items
