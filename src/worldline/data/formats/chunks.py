"""ChunkedRows: rows of an array that is stored in chunks, read in order and inflated once."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from worldline.episode import Array

MAX_BAND_BYTES = 32 << 20  # of one row of chunks, which is what is held at once


class ChunkedRows:
    """An array `[N, *shape]` in chunks.

    Args:
        shape: Of the array.
        chunks: Of one chunk.
        dtype: Of both.
        load: Returns the chunk, of shape `chunks`, whose first element is at the given place of the array.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        dtype: np.dtype[Any],
        load: Callable[[tuple[int, ...]], Array],
    ) -> None:
        self._shape, self._chunks, self._dtype, self._load = shape, chunks, dtype, load
        self._grid = [range(0, size, chunk) for size, chunk in zip(shape[1:], chunks[1:], strict=True)]
        self._band: tuple[int, Array] | None = None  # the row of chunks that was loaded last, and its number

    def read(self, start: int, stop: int) -> Array:
        """Return the rows from `start` to before `stop`, a new array."""
        rows = np.empty((stop - start, *self._shape[1:]), dtype=self._dtype)
        size = self._chunks[0]
        for number in range(start // size, -(-stop // size)):
            first, last = max(start, number * size), min(stop, (number + 1) * size)
            band = self._load_band(number)
            rows[first - start : last - start] = band[first - number * size : last - number * size]
        return rows

    def _load_band(self, number: int) -> Array:
        """Return one row of chunks, `[chunk rows, *shape]`; what is beyond the end of the array is anything."""
        if self._band is not None and self._band[0] == number:
            return self._band[1]
        band = np.empty((self._chunks[0], *self._shape[1:]), dtype=self._dtype)
        for offset in itertools.product((number * self._chunks[0],), *self._grid):
            place = (
                slice(None),
                *(slice(at, at + size) for at, size in zip(offset[1:], self._chunks[1:], strict=True)),
            )
            target = band[place]
            target[...] = self._load(offset)[tuple(slice(0, size) for size in target.shape)]
        self._band = number, band
        return band


def inflate(data: bytes, num_bytes: int, *, is_gzip: bool = False) -> bytes:
    """Return what a zlib stream holds, which must be `num_bytes`; no more than that is ever inflated.

    Raises:
        ValueError: It holds more or less, or is damaged.
    """
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16 if is_gzip else zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, num_bytes)
        surplus = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"its compression is broken: {error}") from error
    if surplus or not stream.eof or len(inflated) != num_bytes:
        raise ValueError(f"it does not hold {num_bytes:,} bytes")
    return inflated
