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
        self._columns = [_Windowed(name, column, seq_len) for name, column in store.columns.items()]
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
            return {
                column.name: column.windows[drawn].view(column.dtype).reshape(-1, *column.shape)
                for column in self._columns
            }
        episodes = np.searchsorted(self._ends, drawn, side="right")
        rows = (drawn + self._shift[episodes])[:, None] + np.arange(self.seq_len)
        last_rows = self._last_rows[episodes][:, None]
        padding = rows > last_rows
        np.minimum(rows, last_rows, out=rows)
        windows = {
            column.name: column.rows[rows].view(column.dtype).reshape(-1, *column.shape) for column in self._columns
        }
        for window in windows.values():
            window[padding] = 0
        return windows

    def _rows(self, numbers: Array) -> Array:
        rows: Array = numbers + self._shift[np.searchsorted(self._ends, numbers, side="right")]
        return rows


class _Windowed:
    """A column `[rows, *shape]` seen as single opaque items, rows or whole windows, which overlap.

    NumPy copies an opaque item in one `memcpy`, which takes half the time of a gather of `[T, *shape]` windows whose
    elements it walks through.
    """

    def __init__(self, name: str, column: Array, seq_len: int) -> None:
        self.name = name
        self.dtype = column.dtype
        self.shape = (seq_len, *column.shape[1:])
        self.rows = _items(column, 1)
        self.windows = _items(column, seq_len)


def _items(column: Array, length: int) -> Array:
    """Return `[rows - length + 1]` overlapping items of `length` rows each, without a copy."""
    row_bytes = column.strides[0]
    count = max(0, len(column) - length + 1)
    items: Array = np.ndarray(
        (count,), dtype=np.dtype((np.void, length * row_bytes)), buffer=column, strides=(row_bytes,)
    )
    return items
