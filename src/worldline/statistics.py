"""How the columns of a data set are distributed: what models normalise by."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from worldline.episode import Array
from worldline.errors import DataError

_ROUNDING = 1e-3
_BLOCK = 1 << 16  # numbers converted to float64 at a time


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ColumnStatistics:
    """One column over all steps, element by element."""

    count: int  # number of steps
    mean: Array  # [*shape] float64
    std: Array  # [*shape] float64, of the population
    low: Array  # [*shape] float64, the least value
    high: Array  # [*shape] float64

    @classmethod
    def of(cls, pieces: Iterable[Array]) -> ColumnStatistics:
        """Return the statistics of all rows of `pieces`, each `[n, *shape]`, in one pass and in little memory.

        Pieces are combined as by Chan et al. ("Updating formulae and a pairwise algorithm for computing sample
        variances", 1979), so that a large mean does not spoil a small deviation.

        Raises:
            DataError: There are no rows.

        >>> found = ColumnStatistics.of([np.array([[0.0], [2.0]]), np.array([[4.0]])])
        >>> found.count, found.mean.tolist(), found.std.round(3).tolist(), found.high.tolist()
        (3, [2.0], [1.633], [4.0])
        """
        count, mean, squares, low, high = 0, np.zeros(()), np.zeros(()), np.array(np.inf), np.array(-np.inf)
        for rows in _blocks(pieces):
            rows_mean = rows.mean(0)
            difference = rows_mean - mean
            total = count + len(rows)
            squares = squares + ((rows - rows_mean) ** 2).sum(0) + difference**2 * (count * len(rows) / total)
            mean = mean + difference * (len(rows) / total)
            low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
            count = total
        if count == 0:
            raise DataError("There are no steps, so there are no statistics of them. Add an episode first.")
        return cls(count=count, mean=mean, std=np.sqrt(squares / count), low=low, high=high)


def is_out_of_range(low: Array, high: Array) -> Array:
    """Return which components of continuous actions leave [-1, 1], `[A]` bool, by more than rounding does.

    Args:
        low: `[A]`, the least value of each.
        high: `[A]`, the greatest.
    """
    found: Array = np.maximum(-low, high) > 1.0 + _ROUNDING
    return found


def flat_statistics(columns: Sequence[ColumnStatistics]) -> ColumnStatistics:
    """Return the statistics of columns side by side, each flattened to one dimension."""
    low, high, mean, std = (
        np.concatenate([np.ravel(values) for values in parts])
        for parts in zip(*((item.low, item.high, item.mean, item.std) for item in columns), strict=True)
    )
    return ColumnStatistics(count=columns[0].count, mean=mean, std=std, low=low, high=high)


def _blocks(pieces: Iterable[Array]) -> Iterable[Array]:
    """Return the rows of `pieces` as float64 in blocks of about `_BLOCK` numbers, short pieces together."""
    waiting: list[Array] = []
    size = 0
    for piece in pieces:
        step = max(1, _BLOCK * len(piece) // max(1, piece.size))
        for start in range(0, len(piece), step):
            waiting.append(piece[start : start + step])
            size += waiting[-1].size
            if size >= _BLOCK:
                yield np.concatenate(waiting, dtype=np.float64)
                waiting, size = [], 0
    if waiting:
        yield np.concatenate(waiting, dtype=np.float64)
