"""Random buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worldline.data.synthetic import create_random_buffer
from worldline.errors import ConfigError


def test_continuous() -> None:
    buffer = create_random_buffer(10_000, (4,), 2, num_episodes=100, episode_length=100, seed=42)
    assert (buffer.num_episodes, buffer.num_transitions, buffer.spec.action_type) == (100, 10_000, "continuous")
    actions = buffer.sample(64, 50).actions
    assert -1 <= actions.min() < -0.9
    assert 0.9 < actions.max() <= 1


def test_discrete() -> None:
    buffer = create_random_buffer(500, (4,), 3, num_episodes=10, episode_length=20, action_type="discrete")
    assert buffer.spec.action_sizes == (3,)
    batch = buffer.sample(64, 10)
    assert (batch.actions[batch.step_mask].sum(-1) == 1).all()


def test_capacity_keeps_the_last_episodes() -> None:
    assert create_random_buffer(50, (4,), 2, num_episodes=10, episode_length=20).num_episodes == 2


def test_seed_decides() -> None:
    first, same, other = (
        next(create_random_buffer(50, (4,), 2, num_episodes=1, episode_length=5, seed=seed).episodes()).obs
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_images_are_uint8_in_dicts_too() -> None:
    shape = {"image": (8, 8, 3), "state": (2,)}
    batch = create_random_buffer(50, shape, 2, num_episodes=2, episode_length=5).sample(2, 3)
    assert isinstance(batch.obs, dict)
    assert batch.obs["image"].dtype == torch.uint8
    assert batch.obs["state"].dtype == torch.float32


@pytest.mark.parametrize("bad", [{"action_type": "both"}, {"num_episodes": 0}, {"episode_length": 0}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        create_random_buffer(50, (4,), 2, **bad)
