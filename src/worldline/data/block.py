"""EpisodeBlock: several episodes end to end, as files hold them and as the buffer takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldline.episode import Array, Episode, named_obs


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
