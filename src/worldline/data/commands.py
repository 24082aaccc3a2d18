"""Commands that episodes turned out to obey: (remaining steps, return to go) of each of their steps.

Row t of an episode of n steps has the command (n - t, r_t + ... + r_(n-1)): what an agent would have had to be told at
row t to do what was done there (Schmidhuber: "Reinforcement Learning Upside Down", 2019). Steps are counted half-open,
so the last row has one step left, and returns are not discounted.

Nothing here loops over steps. Returns are differences of one running sum over all episodes, in float64: with returns of
thousands over millions of steps, what rounding leaves is far below what the float32 of the result can show.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from worldline.episode import Array, check_finite, checked_rewards, numeric_array
from worldline.errors import DataError


def compute_hindsight_commands(rewards: Any, dones: Any) -> Array:
    """Return the command that each row obeyed.

    Args:
        rewards: `[N]`, of episodes one after the other.
        dones: `[N]`, true in the last row of each episode, terminated or truncated. What follows the last one is an
            episode that was cut off at row N.

    Returns:
        `[N, 2]` float32: remaining steps including this one, at least 1; and the undiscounted return to go.

    Raises:
        DataError: The arrays do not fit together, or hold NaN or infinity.

    >>> compute_hindsight_commands([1.0, 2.0, 4.0, 10.0], [0, 0, 1, 1])
    array([[ 3.,  7.],
           [ 2.,  6.],
           [ 1.,  4.],
           [ 1., 10.]], dtype=float32)
    """
    values, ends = _checked(rewards, dones)
    return _commands_to(values, np.arange(len(values)), np.repeat(ends, np.diff(ends, prepend=0)))


def sample_future_commands(
    states: Any, rewards: Any, dones: Any, batch_indices: Any, *, seed: int | np.random.Generator
) -> Array:
    """Return commands that lead to a random later step of the same episode, for some rows.

    For row t of an episode that ends before row e, the command (j - t, r_t + ... + r_(j-1)) with j drawn uniformly from
    t + 1, ..., e: j = e gives the row's hindsight command.

    Args:
        states: `[N, ...]`; only their number is looked at.
        rewards: `[N]`, of episodes one after the other.
        dones: `[N]`, true in the last row of each episode.
        batch_indices: `[B]` rows, from 0 to N - 1.
        seed: A seed, or the generator to draw from.

    Returns:
        `[B, 2]` float32: steps, at least 1, and the undiscounted sum of their rewards.

    Raises:
        DataError: The arrays do not fit together, or there is no such row.
    """
    values, ends = _checked(rewards, dones)
    if len(states) != len(values):
        raise DataError(f"states has {len(states)} rows, but rewards has {len(values)}. Pass one state per reward.")
    rows = numeric_array("batch_indices", batch_indices)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DataError(f"batch_indices is {rows.dtype} of shape {rows.shape}; expected whole numbers [B].")
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(values):
        raise DataError(
            f"batch_indices go from {rows.min()} to {rows.max()}; expected rows from 0 to {len(values) - 1}."
        )
    rows = rows.astype(np.int64)
    ends_of_rows = ends[np.searchsorted(ends, rows, side="right")]
    targets = np.random.default_rng(seed).integers(rows, ends_of_rows, endpoint=False) + 1
    return _commands_to(values, rows, targets)


def commands_of_rows(rewards: Array, first_rows: Array, steps: Array) -> Array:
    """Return the command of each row of a store, whose episodes lie anywhere in its columns.

    Args:
        rewards: `[rows]`; what lies outside the episodes is not looked at.
        first_rows: `[E]` row of each episode's first step.
        steps: `[E]` number of steps of each.

    Returns:
        `[rows, 2]` float32; zero in closing rows and wherever there is no step.
    """
    commands = np.zeros((len(rewards), 2), dtype=np.float32)
    ends = np.cumsum(steps)
    within = np.arange(int(steps.sum()))
    rows = within + np.repeat(first_rows - (ends - steps), steps)
    commands[rows] = _commands_to(rewards[rows], within, np.repeat(ends, steps))
    return commands


def _commands_to(rewards: Array, rows: Array, targets: Array) -> Array:
    """Return what leads from `rows [B]` to just before `targets [B]`: steps and sum of rewards, `[B, 2]`."""
    before = np.zeros(len(rewards) + 1)
    np.cumsum(rewards, dtype=np.float64, out=before[1:])
    commands = np.empty((len(rows), 2), dtype=np.float32)
    commands[:, 0] = targets - rows
    commands[:, 1] = before[targets] - before[rows]
    return commands


def _checked(rewards: Any, dones: Any) -> tuple[Array, Array]:
    """Return the rewards `[N]` and the end of each episode `[E]`, the row after its last."""
    values = checked_rewards(rewards)
    check_finite("rewards", values)
    flags = numeric_array("dones", dones)
    if flags.shape != values.shape:
        raise DataError(f"dones has shape {flags.shape}; expected {values.shape}, one flag for each reward.")
    ends = np.flatnonzero(flags) + 1
    return values, ends if len(ends) and ends[-1] == len(values) else np.append(ends, len(values))
