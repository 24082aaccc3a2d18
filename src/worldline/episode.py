"""Episode: one trajectory, validated once.

Follows the row rule of `batch.py`: row t holds obs_t, the action taken there, and the reward that `env.step` then
returned; `final_obs` is what the last step led to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
ObsArray: TypeAlias = Array | dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What one step of a data set looks like: all that a model needs to be built for it."""

    obs_shape: tuple[int, ...] | dict[str, tuple[int, ...]]
    action_dim: int  # A, the width of a row of `Batch.actions`
    action_type: str  # "discrete", "multi_discrete" or "continuous"
    action_sizes: tuple[int, ...]  # discrete: (A,); multi_discrete: choices of each, summing to A; continuous: ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """One trajectory of T >= 1 steps."""

    obs: ObsArray  # [T, *obs], or a dict of them
    actions: Array  # [T, A] float, or [T] / [T, 1] integers (discrete), or [T, K] integers (multi-discrete)
    rewards: Array  # [T] float
    terminated: bool  # the last step ended the episode for good
    truncated: bool = False  # the last step was cut off (time limit)
    final_obs: ObsArray | None = None  # [*obs], what the last step led to
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # seed, task, language, ...

    def __len__(self) -> int:
        return len(self.rewards)
