"""Which windows there are, and in which order they are drawn.

Windows of T rows start at every row from which T rows of the same episode follow, its closing row included: an episode
of n steps has n + 1 rows and n + 2 - T starts. An episode with fewer than T rows has one start and is padded. Every
start is equally likely. So a long episode is drawn in proportion to its length, and the rows within T of either end of
an episode are seen less often than those in its middle, as in every replay that neither pads nor crosses episodes.

The order is a function of (seed, step, batch size) and of the episodes held, and of nothing else: not of what was
sampled before, nor of where in memory an episode lies.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from worldline.data.store import RowStore
from worldline.episode import Array

_BLOCK_STEPS = 64  # steps whose randomness is drawn together
_BLOCK_NUMBERS = 1 << 16  # but never more numbers than this, where batches are large


class Windows:
    """The windows of `seq_len` rows that a store holds; valid for one version of it."""

    def __init__(self, store: RowStore, seq_len: int) -> None:
        self.version = store.version
        self.seq_len = seq_len
        self._first_rows = store.first_rows.copy()
        self._last_rows = self._first_rows + store.steps
        starts = np.maximum(store.steps + 2 - seq_len, 1)
        self._ends = np.cumsum(starts)  # [E] number of starts up to and including each episode
        self._shift = self._first_rows - (self._ends - starts)  # [E] from the number of a start to its row
        self.num_starts = int(self._ends[-1])
        self._is_padded = bool((store.steps + 1 < seq_len).any())
        self._columns = store.columns
        self._views = {} if self._is_padded else {k: _window_view(v, seq_len) for k, v in store.columns.items()}
        self._block_key: tuple[int, int, int] | None = None
        self._block = np.empty((0, 0), dtype=np.int64)

    def draw(self, batch_size: int, *, seed: int, step: int) -> Array:
        """Return the numbers `[B]` of the starts that belong to `step`, for `gather`."""
        block_steps = max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // batch_size))
        block, row = divmod(step, block_steps)
        key = (seed, block, batch_size)
        if key != self._block_key:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, block))))
            numbers = (generator.random((block_steps, batch_size)) * self.num_starts).astype(np.int64)
            self._block = numbers if self._is_padded else self._rows(numbers)
            self._block_key = key
        drawn: Array = self._block[row]
        return drawn

    def gather(self, drawn: Array) -> dict[str, Array]:
        """Return windows `[B, T, ...]` of every column, zero where they are padded."""
        if not self._is_padded:
            return {name: view[drawn] for name, view in self._views.items()}
        episodes = np.searchsorted(self._ends, drawn, side="right")
        rows = (drawn + self._shift[episodes])[:, None] + np.arange(self.seq_len)
        last_rows = self._last_rows[episodes][:, None]
        padding = rows > last_rows
        np.minimum(rows, last_rows, out=rows)
        windows = {name: column.take(rows, axis=0) for name, column in self._columns.items()}
        for window in windows.values():
            window[padding] = 0
        return windows

    def _rows(self, numbers: Array) -> Array:
        rows: Array = numbers + self._shift[np.searchsorted(self._ends, numbers, side="right")]
        return rows


def _window_view(column: Array, seq_len: int) -> Array:
    """Return the overlapping windows `[rows - T + 1, T, *shape]` of a column, without a copy."""
    shape = (len(column) - seq_len + 1, seq_len, *column.shape[1:])
    return as_strided(column, shape, (column.strides[0], *column.strides), writeable=False)
