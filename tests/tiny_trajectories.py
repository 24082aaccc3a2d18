"""Small data sets in FlowShield's layouts."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshield.training import TrajectoryDataset
from worldline.data.buffer import ReplayBuffer
from worldline.episode import Episode

LENGTHS = (3, 1, 5)


def trajectories(lengths: tuple[int, ...] = LENGTHS, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return trajectories whose last step is a done."""
    rng = np.random.default_rng(seed)
    return [
        {
            "states": rng.normal(size=(length, 4)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            "rewards": rng.normal(size=length).astype(np.float32),
            "dones": np.arange(1, length + 1) == length,
        }
        for length in lengths
    ]


def flat(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return trajectories as flat arrays."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def dataset(num_episodes: int = 40, *, seed: int = 0) -> TrajectoryDataset:
    """Return a data set in which the action says how large the reward is, so that commands matter."""
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        length, effort = int(rng.integers(4, 12)), rng.uniform(-1, 1)
        actions = np.full((length, 2), effort, np.float32)
        states = rng.normal(size=(length, 4)).astype(np.float32)
        episodes.append(Episode(obs=states, actions=actions, rewards=actions[:, 0] * 10, terminated=True))
    return TrajectoryDataset.from_buffer(ReplayBuffer.from_episodes(episodes, action_dim=2, action_sizes=()))
