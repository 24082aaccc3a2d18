"""Push-T, where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worldline.envs.make import make_env
from worldline.envs.pusht_envs import keypoints_of
from worldline.errors import ConfigError

from .families import check_replay, check_seeds

pytest.importorskip("gym_pusht")


def place_block(env: Any, x: float, y: float, angle: float) -> None:
    """Put the block where the state says; the angle first, because it turns the block about its centre of mass."""
    block = env.unwrapped.block
    block.angle = angle
    block.position = (x, y)


def test_points_are_those_of_the_block_the_simulator_has():
    """The middle of the T's stem end, and the corners of its bar, within the thickness of a line."""
    env = make_env("pusht")
    obs, _ = env.reset(seed=3)
    assert obs.shape == (20,)
    assert obs.dtype == np.float32
    base: Any = env.unwrapped
    corners = np.array([base.block.local_to_world(v) for shape in base.block.shapes for v in shape.get_vertices()])
    low, high = corners.min(0), corners.max(0)
    points = obs[:18].reshape(9, 2)
    assert (points > low - 3).all()
    assert (points < high + 3).all()
    assert np.allclose(obs[18:], base.agent.position)


def test_points_turn_with_the_block():
    state = np.array([10.0, 20.0, 100.0, 200.0, 0.0])
    still, turned = keypoints_of(state), keypoints_of([*state, 0, 0, 0, 0, np.pi / 2])
    from_block = still[:18].reshape(9, 2) - [100, 200]
    expected = [*np.stack([-from_block[:, 1], from_block[:, 0]], -1), 100, 200]
    assert np.allclose(turned[:18].reshape(9, 2), expected, atol=1e-4)
    assert still[18:].tolist() == turned[18:].tolist() == [10.0, 20.0]


def test_the_reward_is_coverage_and_95_percent_is_the_end():
    env = make_env("pusht")
    env.reset(seed=0)
    base: Any = env.unwrapped
    base.agent.position = (20, 20)
    place_block(env, *base.goal_pose)
    _, reward, terminated, truncated, info = env.step(np.array([20 / 256 - 1] * 2))
    assert info["coverage"] > 0.99
    assert (reward, terminated, truncated) == (1.0, True, False)
    env.reset(seed=0)
    place_block(env, base.goal_pose[0] + 20, base.goal_pose[1], base.goal_pose[2])
    _, reward, terminated, _, info = env.step(np.array([20 / 256 - 1] * 2))
    assert 0.3 < info["coverage"] < 0.9
    assert reward == pytest.approx(info["coverage"] / 0.95)
    assert not terminated


def test_actions_are_places_and_300_steps_truncate():
    env = make_env("pusht:state")
    obs, _ = env.reset(seed=1)
    assert obs.shape == (5,)
    for step in range(300):
        obs, _, terminated, truncated, _ = env.step(np.array([-0.5, 0.75]))
        assert truncated == (step == 299)
        assert not terminated
    assert np.allclose(obs[:2], [128, 448], atol=1.0)


def test_other_names_are_refused():
    with pytest.raises(ConfigError, match="keypoints"):
        make_env("pusht:keypoint")


def test_seeds_and_replay():
    check_seeds("pusht")
    check_replay("pusht")
