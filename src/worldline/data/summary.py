"""What is in a file of episodes, read once and block by block."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from worldline.episode import Array

if TYPE_CHECKING:
    from worldline.data.block import EpisodeBlock
    from worldline.data.formats.recording import Recording


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ColumnSummary:
    """One column over all steps; what is not finite is counted and left out of the rest."""

    shape: tuple[int, ...]  # of one row
    dtype: np.dtype[np.generic]
    low: Array  # [*shape] float64; NaN where nothing is finite
    mean: Array  # [*shape] float64
    high: Array  # [*shape] float64
    num_not_finite: int  # of all numbers


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """A file of episodes."""

    lengths: Array  # [E]
    returns: Array  # [E] float64
    terminated: Array  # [E] bool
    truncated: Array  # [E] bool
    has_final_obs: Array  # [E] bool
    columns: Mapping[str, ColumnSummary]
    environments: tuple[str, ...]  # from `meta`
    languages: Mapping[str, int]  # how many episodes have each instruction
    num_orphan_rows: int


class _Column:
    """Sums over the rows of a column."""

    def __init__(self, rows: Array) -> None:
        self.shape, self.dtype = rows.shape[1:], rows.dtype
        self.low, self.high = np.full(self.shape, np.inf), np.full(self.shape, -np.inf)
        self.sum, self.count = np.zeros(self.shape), np.zeros(self.shape, dtype=np.int64)
        self.num_not_finite = 0

    def add(self, rows: Array) -> None:
        if len(rows) == 0:
            return
        if rows.dtype.kind == "f" and not (finite := np.isfinite(rows)).all():
            self.num_not_finite += int(rows.size - finite.sum())
            self.low = np.minimum(self.low, np.where(finite, rows, np.inf).min(axis=0))
            self.high = np.maximum(self.high, np.where(finite, rows, -np.inf).max(axis=0))
            self.sum += np.where(finite, rows, 0).sum(axis=0, dtype=np.float64)
            self.count += finite.sum(axis=0)
            return
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))
        self.sum += rows.sum(axis=0, dtype=np.float64)
        self.count += len(rows)

    def summary(self) -> ColumnSummary:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sum / self.count
        none = self.count == 0
        return ColumnSummary(
            shape=self.shape,
            dtype=self.dtype,
            low=np.where(none, np.nan, self.low),
            mean=mean,
            high=np.where(none, np.nan, self.high),
            num_not_finite=self.num_not_finite,
        )


def summarise(recording: Recording) -> Summary:
    """Read all episodes of an open file, and say what is in them.

    Raises:
        FileError: The file is damaged.
        DataError: An episode has columns of different lengths.
    """
    columns: dict[str, _Column] = {}
    per_episode: list[tuple[Array, Array, Array, Array, Array]] = []
    environments: set[str] = set()
    languages: collections.Counter[str] = collections.Counter()
    for block in recording.blocks():
        for name, rows in {**block.obs, "actions": block.actions, "rewards": block.rewards}.items():
            columns.setdefault(name, _Column(rows)).add(rows)
        per_episode.append(_per_episode(block))
        environments |= {str(meta["env"]) for meta in block.meta if "env" in meta}
        languages.update(str(meta["language"]) for meta in block.meta if "language" in meta)
    lengths, returns, terminated, truncated, has_final_obs = (
        np.concatenate(parts) for parts in zip(*per_episode, strict=True)
    )
    return Summary(
        lengths=lengths,
        returns=returns,
        terminated=terminated,
        truncated=truncated,
        has_final_obs=has_final_obs,
        columns={name: column.summary() for name, column in columns.items()},
        environments=tuple(sorted(environments)),
        languages=dict(languages.most_common()),
        num_orphan_rows=recording.num_orphan_rows,
    )


def _per_episode(block: EpisodeBlock) -> tuple[Array, Array, Array, Array, Array]:
    starts = np.concatenate([[0], block.ends[:-1]])
    returns = np.add.reduceat(block.rewards.astype(np.float64), starts)
    return block.ends - starts, returns, block.terminated, block.truncated, block.has_final_obs
