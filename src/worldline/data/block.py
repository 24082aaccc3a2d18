"""EpisodeBlock: several episodes end to end, as files hold them and as the buffer takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldline.episode import Array, Episode, named_obs
from worldline.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeBlock:
    """E episodes with N steps between them, every array checked already for length and NaN."""

    obs: dict[str, Array]  # [N, *obs] by column name (`named_obs`)
    actions: Array  # [N, A] or indices, as in `Episode`
    rewards: Array  # [N]
    ends: Array  # [E] int64, the number of steps up to and including each episode
    terminated: Array  # [E] bool
    truncated: Array  # [E] bool
    final_obs: dict[str, Array]  # [E, *obs] by column name; anything where it is not known
    has_final_obs: Array  # [E] bool
    meta: Sequence[Mapping[str, Any]]  # one per episode

    @classmethod
    def of(cls, episode: Episode) -> EpisodeBlock:
        """Return the block of one episode."""
        obs = named_obs(episode.obs)
        last = {name: column[-1] for name, column in obs.items()}
        final = last if episode.final_obs is None else named_obs(episode.final_obs)
        return cls(
            obs=obs,
            actions=episode.actions,
            rewards=episode.rewards,
            ends=np.array([len(episode)]),
            terminated=np.array([episode.terminated]),
            truncated=np.array([episode.truncated]),
            final_obs={name: value[None] for name, value in final.items()},
            has_final_obs=np.array([episode.final_obs is not None]),
            meta=[episode.meta],
        )

    def tasks(self) -> Array | None:
        """Return every episode's `meta["task"]` as numbers, `[E]` int64; None where that is no number in any.

        Raises:
            DataError: Some episodes have a number and others have not, or it is below zero.
        """
        found = [meta.get("task") for meta in self.meta]
        numbers = [task for task in found if isinstance(task, int) and not isinstance(task, bool)]
        if not numbers:
            return None
        if len(numbers) < len(found) or min(numbers) < 0:
            raise DataError(
                f"{len(found) - len(numbers)} of {len(found)} episodes have no task number; the least of the others is "
                f'{min(numbers)}. Give each episode its number from 0 on in meta["task"], or none of them.'
            )
        return np.array(numbers, dtype=np.int64)
