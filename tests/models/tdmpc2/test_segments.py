from __future__ import annotations

import dataclasses

import pytest
import torch

from models.tdmpc2.tiny_tdmpc2 import make_batch, make_config
from worldline.errors import DataError
from worldline.models.tdmpc2.segments import cut


def test_a_window_of_h_plus_1_rows_is_one_segment():
    config = make_config()
    batch = make_batch(config, 5, 4)
    segments = cut(batch, config)
    assert torch.equal(segments.obs["obs"], batch.obs.transpose(0, 1))
    assert torch.equal(segments.actions, batch.actions[:, :3].transpose(0, 1))
    assert torch.equal(segments.rewards, batch.rewards[:, :3].T)
    assert segments.step_mask.all()
    assert segments.next_mask.all()
    assert segments.state_mask.all()
    assert segments.tasks is None


def test_longer_windows_are_cut_and_every_step_is_in_one_segment():
    config = make_config()
    batch = make_batch(config, 2, 9)  # 8 steps: 3, 3 and 2
    segments = cut(batch, config)
    assert segments.rewards.shape == (3, 6)
    assert segments.step_mask.sum(0).tolist() == [3, 3, 3, 3, 2, 2]
    assert segments.state_mask.sum(0).tolist() == [4, 4, 4, 4, 3, 3]
    kept = segments.rewards.T[segments.step_mask.T].view(-1)
    assert torch.equal(kept.sort().values, batch.rewards[:, :8].flatten().sort().values)
    assert torch.equal(segments.obs["obs"][0, 2:4], batch.obs[:, 3])  # the second segments begin at row 3


def test_shorter_windows_make_shorter_segments():
    config = make_config()
    assert cut(make_batch(config, 2, 3), config).rewards.shape == (2, 2)
    with pytest.raises(DataError, match="windows of at least 2 rows; got 1"):
        cut(make_batch(config, 2, 1), config)


def test_the_end_of_an_episode():
    """Three steps; the last one terminates, its final observation known in window 0 and lost in window 1."""
    config = make_config(horizon=5)
    batch = make_batch(config, 2, 6)
    batch.step_mask[:, 3:] = False
    batch.obs_mask[0, 4:] = False
    batch.obs_mask[1, 3:] = False
    batch.terminations[:, 2:] = True
    batch.obs[~batch.obs_mask] = float("nan")
    batch.rewards[~batch.step_mask] = float("nan")
    segments = cut(batch, config)
    assert segments.step_mask.T.tolist() == [[True, True, True, False, False]] * 2
    assert segments.next_mask.T.tolist() == [[True, True, True, False, False], [True, True, False, False, False]]
    assert segments.state_mask.sum(0).tolist() == [4, 3]
    assert segments.terminations.T.tolist() == [[False, False, True, False, False]] * 2
    assert segments.obs["obs"].isfinite().all()
    assert segments.rewards.isfinite().all()


def test_no_segment_crosses_into_the_next_episode():
    config = make_config()
    batch = make_batch(config, 1, 4)
    batch.is_first[0, 2] = True
    segments = cut(batch, config)
    assert segments.step_mask[:, 0].tolist() == [True, True, False]
    assert segments.next_mask[:, 0].tolist() == [True, False, False]
    batch.is_first[0, 2] = False
    batch.is_first[0, 0] = True
    assert cut(batch, config).next_mask.all()


def test_tasks_come_with_the_batch():
    config = make_config(task_action_dims=(1, 2))
    batch = make_batch(config, 4, 7)
    assert cut(batch, config).tasks.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    with pytest.raises(DataError, match=r'tells 2 tasks apart.*extras\["task"\]'):
        cut(dataclasses.replace(batch, extras={}), config)


def test_other_actions_than_the_model_was_built_for():
    with pytest.raises(DataError, match="actions of 3 numbers; the batch has 2"):
        cut(make_batch(make_config()), make_config(action_dim=3))
