"""Buffers of random data, for tests and first steps."""

from __future__ import annotations

from typing import Literal

import numpy as np

from worldline.data.buffer import ReplayBuffer
from worldline.episode import Array, ObsShape
from worldline.errors import ConfigError


def create_random_buffer(
    capacity: int,
    obs_shape: ObsShape,
    action_dim: int,
    num_episodes: int = 100,
    episode_length: int = 100,
    seed: int = 42,
    action_type: Literal["continuous", "discrete"] = "continuous",
) -> ReplayBuffer:
    """Return a buffer of random episodes, each terminated at its last step and with a final observation.

    Observations and rewards are standard normal; observations of rank 3 are uint8 images. Continuous actions are
    uniform in [-1, 1], discrete ones uniform over `action_dim` choices.

    Args:
        capacity: The most transitions to keep; if it is less than `num_episodes * episode_length`, the last episodes
            remain.
        obs_shape: Shape of one observation, or a dict of shapes.
        action_dim: A.
        num_episodes: Number of episodes.
        episode_length: Steps of each.
        seed: Of the generator; equal seeds make equal buffers.
        action_type: "continuous" or "discrete".

    >>> buffer = create_random_buffer(1000, (4,), 2, num_episodes=5, episode_length=10)
    >>> buffer.num_episodes, len(buffer)
    (5, 50)
    """
    if action_type not in ("continuous", "discrete"):
        raise ConfigError(f"action_type is {action_type!r}; expected 'continuous' or 'discrete'.")
    if num_episodes < 1 or episode_length < 1:
        raise ConfigError(f"Got {num_episodes} episodes of {episode_length} steps; expected at least 1 of each.")
    generator = np.random.default_rng(seed)
    sizes = (action_dim,) if action_type == "discrete" and action_dim > 1 else ()
    buffer = ReplayBuffer(capacity, obs_shape, action_dim, action_sizes=sizes)
    for _ in range(num_episodes):
        rows = episode_length + 1
        obs = (
            {key: _random_obs(generator, rows, shape) for key, shape in obs_shape.items()}
            if isinstance(obs_shape, dict)
            else {"": _random_obs(generator, rows, obs_shape)}
        )
        steps = {key: value[:-1] for key, value in obs.items()}
        final = {key: value[-1] for key, value in obs.items()}
        buffer.add_episode(
            obs=steps if isinstance(obs_shape, dict) else steps[""],
            actions=_random_actions(generator, episode_length, action_dim, sizes),
            rewards=generator.standard_normal(episode_length, dtype=np.float32),
            terminated=True,
            final_obs=final if isinstance(obs_shape, dict) else final[""],
        )
    return buffer


def _random_obs(generator: np.random.Generator, rows: int, shape: tuple[int, ...]) -> Array:
    if len(shape) == 3:
        return generator.integers(0, 256, (rows, *shape), dtype=np.uint8)
    return generator.standard_normal((rows, *shape), dtype=np.float32)


def _random_actions(generator: np.random.Generator, steps: int, action_dim: int, sizes: tuple[int, ...]) -> Array:
    if sizes:
        return generator.integers(0, action_dim, steps)
    return generator.uniform(-1, 1, (steps, action_dim)).astype(np.float32)
