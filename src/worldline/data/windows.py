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
        item_rows = 1 if self._is_padded else seq_len
        self._columns = [_Windowed(name, column, item_rows, seq_len) for name, column in store.columns.items()]
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

    def gather(self, drawn: Array) -> dict[str, Array]:
        """Return windows `[B, T, ...]` of every column, zero where they are padded."""
        if not self._is_padded:
            return {column.name: column.gather(drawn) for column in self._columns}
        episodes = np.searchsorted(self._ends, drawn, side="right")
        rows = (drawn + self._shift[episodes])[:, None] + np.arange(self.seq_len)
        last_rows = self._last_rows[episodes][:, None]
        padding = rows > last_rows
        windows = {column.name: column.gather(np.minimum(rows, last_rows)) for column in self._columns}
        for window in windows.values():
            window[padding] = 0
        return windows


class _Windowed:
    """A column `[rows, *shape]` seen as opaque items of one or several rows each, which overlap.

    NumPy copies an opaque item in one `memcpy`, which takes half the time of a gather of `[T, *shape]` windows whose
    elements it walks through.
    """

    def __init__(self, name: str, column: Array, item_rows: int, seq_len: int) -> None:
        self.name = name
        self._dtype = column.dtype
        self._shape = (seq_len, *column.shape[1:])
        row_bytes = column.strides[0]
        self._items: Array = np.ndarray(
            (len(column) - item_rows + 1,),
            dtype=np.dtype((np.void, item_rows * row_bytes)),
            buffer=column,
            strides=(row_bytes,),
        )

    def gather(self, items: Array) -> Array:
        """Return windows `[B, T, *shape]` from items `[B]` of T rows, or `[B, T]` of one row."""
        # The constructor is quicker than view and reshape, and the memory is as new.
        windows: Array = np.ndarray((len(items), *self._shape), self._dtype, self._items[items])
        return windows
