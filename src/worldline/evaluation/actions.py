"""How far a policy's actions are from recorded ones, component by component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from worldline.device import device_of
from worldline.episode import Array, Episode, named_obs, unnamed_obs
from worldline.errors import DataError
from worldline.mode import measuring
from worldline.protocols import Policy


def action_errors(policy: Policy, episodes: Sequence[Episode]) -> Array:
    """Return the mean absolute error `[A]` of a policy's likeliest actions, at every step of recorded episodes.

    The policy sees what was recorded, not what its own actions would have led to: this says which components it has
    learnt, and not whether it would succeed (`rollout.evaluate_policy` does).

    Raises:
        DataError: There are no episodes, or their actions are not rows `[T, A]`.
    """
    if not episodes:
        raise DataError("There are no episodes to hold the policy's actions against.")
    for episode in episodes:
        if episode.actions.ndim != 2:
            raise DataError(f"Recorded actions have shape {episode.actions.shape}; expected rows [T, A].")
    device = device_of(policy)
    columns = [named_obs(episode.obs) for episode in episodes]
    total, count = np.zeros(episodes[0].actions.shape[1]), 0
    state: Any = None
    with measuring(policy, seed=0):
        for step in range(max(map(len, episodes))):
            rows = [min(step, len(episode) - 1) for episode in episodes]  # the last one again where one has ended
            named = {
                name: torch.from_numpy(np.stack([each[name][row] for each, row in zip(columns, rows, strict=True)]))
                for name in columns[0]
            }
            obs = unnamed_obs({name: value.to(device) for name, value in named.items()})
            is_first = torch.full((len(episodes),), step == 0, device=device)
            actions, state = policy.act(obs, state, is_first=is_first, deterministic=True)
            chosen = actions.detach().to("cpu", torch.float32).numpy().clip(-1.0, 1.0)
            for place, episode in enumerate(episodes):
                if step < len(episode):
                    total += np.abs(chosen[place] - episode.actions[step])
                    count += 1
    errors: Array = total / count
    return errors
