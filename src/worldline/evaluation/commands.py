"""Whether an agent obeys: which commands to tell it, and how what it does goes with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from worldline.episode import Array
from worldline.errors import ConfigError, DataError
from worldline.protocols import HasEpisodes

_TAILS = 0.05  # of the episodes with the least and the greatest returns lie outside the commands
_NEIGHBOURS = 50  # one episode in so many says how many steps go with a return


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How what was done goes with what was told."""

    spearman: float  # rank correlation of what was told and the mean that was done; NaN where either never changes
    slope: float  # of the line through them, 1 where all is done as told; NaN for a single command
    episode_spearman: float  # rank correlation with what each episode did
    mean_distance: float  # of what an episode did from what was told


def commands_in(
    dataset: HasEpisodes, num: int, *, spacing: Literal["even", "quantiles"] = "even"
) -> list[tuple[float, float]]:
    """Return `num` commands (steps, return) that the data hold, by rising return.

    The returns are evenly spaced ("even"), which asks as often for what is rare, or those of evenly spaced shares of
    the episodes ("quantiles"); 5% of all episodes lie beyond them at either end. The steps are the median of the 2% of
    all episodes with the nearest returns.

    Raises:
        ConfigError: `num` is less than 1.
        DataError: There are no episodes.
    """
    if num < 1:
        raise ConfigError(f"The number of commands must be at least 1; got {num}.")
    done = [(len(episode), float(episode.rewards.sum(dtype=np.float64))) for episode in dataset.episodes()]
    if not done:
        raise DataError("There are no episodes to take commands from. Pass a data set that has some.")
    steps, returns = (np.array(column, dtype=np.float64) for column in zip(*done, strict=True))
    wanted = np.quantile(returns, np.linspace(_TAILS, 1 - _TAILS, num))
    if spacing == "even":
        wanted = np.linspace(wanted[0], wanted[-1], num)
    commands = []
    for value in wanted:
        near = np.argsort(np.abs(returns - value), kind="stable")[: max(1, len(returns) // _NEIGHBOURS)]
        commands.append((float(np.sort(steps[near])[len(near) // 2]), float(value)))
    return commands


def agreement(told: Sequence[float] | Array, done: Sequence[Sequence[float]] | Array) -> Agreement:
    """Return how what was done, `[commands, episodes]`, goes with what was told, `[commands]`.

    >>> agreement([0.0, 10.0, 20.0], [[0.0], [5.0], [10.0]])
    Agreement(spearman=1.0, slope=0.5, episode_spearman=1.0, mean_distance=5.0)

    Raises:
        DataError: There is not one row for each command.
    """
    asked, did = np.asarray(told, dtype=np.float64), np.asarray(done, dtype=np.float64)
    if asked.ndim != 1 or did.ndim != 2 or len(asked) != len(did) or did.size == 0:
        raise DataError(f"Expected commands [C] and episodes [C, N]; got shapes {asked.shape} and {did.shape}.")
    each, means = np.repeat(asked, did.shape[1]), did.mean(1)
    deviations = asked - asked.mean()
    spread = float((deviations**2).sum())
    return Agreement(
        spearman=spearman(asked, means),
        slope=float((deviations * means).sum()) / spread if spread > 0 else float("nan"),
        episode_spearman=spearman(each, did.ravel()),
        mean_distance=float(np.abs(each - did.ravel()).mean()),
    )


def spearman(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    """Return Spearman's rank correlation of `x [N]` and `y [N]`; equal values share the mean of their ranks.

    NaN where either is the same everywhere.

    >>> spearman([1.0, 2.0, 3.0], [10.0, 1000.0, 100.0])
    0.5
    """
    first, second = _centred_ranks(x), _centred_ranks(y)
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else float("nan")


def _centred_ranks(values: Sequence[float] | Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    centred: Array = ranks - ranks.mean()
    return centred
