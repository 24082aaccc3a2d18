"""Episodes of which it is known what their commands are: each has a reward rate that its observations show."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldline.create import create_model
from worldline.data.buffer import ReplayBuffer
from worldline.models.shields import BaseShield

SHIELDS = ("shield:quantile", "shield:diffusion", "shield:flow_matching")
STATE_DIM = 3


def recorded(num_episodes: int, *, seed: int = 0) -> ReplayBuffer:
    """Return episodes of 5 to 24 steps. Observed are the rate, the steps that are left and noise."""
    draws = np.random.default_rng(seed)
    buffer = ReplayBuffer(num_episodes * 25, (STATE_DIM,), 1, action_sizes=())
    for _ in range(num_episodes):
        steps, rate = int(draws.integers(5, 25)), draws.uniform(-1, 1)
        left = np.arange(steps, 0, -1)
        obs = np.stack((np.full(steps, rate), left / 10, draws.normal(size=steps)), 1)
        rewards = rate + 0.2 * draws.normal(size=steps)
        buffer.add_episode(obs, draws.normal(size=(steps, 1)), rewards, terminated=True)
    return buffer


def shield(model: str, data: ReplayBuffer | None = None, *, moved: bool = True, **settings: Any) -> BaseShield:
    """Build a small shield, fitted to the scale of `data`; `moved` makes its density different from the initial one."""
    torch.manual_seed(0)
    built = create_model(
        model,
        obs_shape=(STATE_DIM,),
        action_dim=1,
        action_type="continuous",
        **{"units": 16, "layers": 2, "num_reference_states": 64} | settings,
    )
    assert isinstance(built, BaseShield)
    if moved:
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
    if data is not None:
        built.fit(data.statistics())
    return built


def pairs(data: ReplayBuffer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states `[N, S]` and commands `[N, 2]` of all steps."""
    episodes = list(data.episodes())
    states = np.concatenate([np.asarray(episode.obs) for episode in episodes])
    return torch.from_numpy(states), torch.from_numpy(np.concatenate([episode.commands for episode in episodes]))
