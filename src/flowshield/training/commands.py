"""Hindsight commands by FlowShield's names; Worldline computes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldline.data import commands as core
from worldline.data.commands import compute_hindsight_commands
from worldline.episode import Array

__all__ = ["compute_hindsight_commands", "sample_future_commands"]


def sample_future_commands(
    states: Any, rewards: Any, dones: Any, batch_indices: Any, *, seed: int | np.random.Generator | None = None
) -> Array:
    """Return commands `[B, 2]` that lead to a random later step of the same episode.

    Worldline's, for which a seed is optional here: without one, every call draws anew.

    Args:
        states: `[N, ...]`; only their number is looked at.
        rewards: `[N]`, of episodes one after the other.
        dones: `[N]`, true in the last row of each episode.
        batch_indices: `[B]` rows.
        seed: A seed, or the generator to draw from.

    Raises:
        DataError: The arrays do not fit together, or there is no such row.
    """
    generator = np.random.default_rng(seed)
    return core.sample_future_commands(states, rewards, dones, batch_indices, seed=generator)
