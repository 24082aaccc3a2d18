from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from models.dreamerv3.tiny_dreamer import make_batch, make_config
from worldline.batch import Batch
from worldline.errors import DataError
from worldline.models.dreamerv3.rows import align

T, F = True, False
CONFIG = make_config(obs_shape=(1,))


def bools(*rows: list[bool]) -> Tensor:
    return torch.tensor(rows)


def three_windows() -> Batch:
    """An episode of 2 steps with its end and padding; the middle of one; the end of one whose last obs was lost."""
    return Batch(
        obs=torch.tensor([[1.0, 2, 3, 0], [4, 5, 6, 7], [8, 9, 10, 0]])[..., None],
        actions=torch.nn.functional.one_hot(torch.tensor([[0, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]]), 2).float(),
        rewards=torch.tensor([[10.0, 20, 0, 0], [30, 40, 50, 60], [70, 80, 90, 0]]),
        terminations=bools([F, T, F, F], [F, F, F, F], [F, F, F, F]),
        is_first=bools([T, F, F, F], [F, F, F, F], [F, F, F, F]),
        step_mask=bools([T, T, F, F], [T, T, T, T], [T, T, T, F]),
        obs_mask=bools([T, T, T, F], [T, T, T, T], [T, T, T, F]),
    )


def test_rewards_actions_and_ends_move_to_where_they_arrive():
    rows = align(three_windows(), CONFIG)
    assert rows.obs["obs"][..., 0].T.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7], [8, 9, 10, 0]]
    assert rows.rewards.T.tolist() == [[0, 10, 20, 0], [0, 30, 40, 50], [0, 70, 80, 0]]
    assert rows.prev_actions.argmax(-1).T[:, 1:].tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert (rows.prev_actions[0] == 0).all()  # unknown, or none
    assert (rows.prev_actions[3, 0] == 0).all()
    assert rows.is_first.T.tolist() == [[T, F, F, F], [F, F, F, F], [F, F, F, F]]
    assert rows.is_terminal.T.tolist() == [[F, F, T, F], [F, F, F, F], [F, F, F, F]]
    assert rows.is_last.T.tolist() == [[F, F, T, F], [F, F, F, F], [F, F, T, F]]


def test_what_counts():
    rows = align(three_windows(), CONFIG)
    assert rows.valid.T.tolist() == [[T, T, T, F], [T, T, T, T], [T, T, T, F]]
    assert rows.obs_mask.T.tolist() == [[T, T, T, F], [T, T, T, T], [T, T, T, F]]
    # The first row of an episode has arrived with nothing; that of a window in its middle with something unknown.
    assert rows.arrival_mask.T.tolist() == [[T, T, T, F], [F, T, T, T], [F, T, T, F]]


def test_a_state_that_nobody_saw_counts_only_if_it_is_terminal():
    batch = three_windows()
    batch.terminations[2, 2] = True
    rows = align(batch, CONFIG)
    window = {name: getattr(rows, name)[:, 2].tolist() for name in ("rewards", "valid", "obs_mask", "arrival_mask")}
    assert window == {
        "rewards": [0, 70, 80, 90],
        "valid": [T, T, T, T],
        "obs_mask": [T, T, T, F],
        "arrival_mask": [F, T, T, T],
    }
    assert rows.is_terminal[:, 2].tolist() == rows.is_last[:, 2].tolist() == [F, F, F, T]


def test_a_single_row_is_too_short():
    batch = three_windows().map(lambda tensor: tensor[:, :1])
    with pytest.raises(DataError, match=r"at least 2 rows; got 1\. Sample with a larger sequence_length"):
        align(batch, CONFIG)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -3e38])
def test_what_is_not_real_is_left_out(garbage: float):
    batch = three_windows()
    expected = align(batch, CONFIG)
    steps, seen = batch.step_mask, batch.obs_mask
    batch.actions[~steps] = garbage
    batch.rewards[~steps] = garbage
    batch.terminations[~steps] = True
    batch.obs[~seen] = garbage
    rows = align(batch, CONFIG)
    for field in dataclasses.fields(rows):
        ours, theirs = getattr(rows, field.name), getattr(expected, field.name)
        if field.name == "obs":
            ours, theirs = ours["obs"], theirs["obs"]
        assert torch.equal(ours, theirs), field.name


def test_images_keep_their_type():
    config = make_config(obs_shape=(8, 8, 1))
    rows = align(make_batch(config), config)
    assert rows.obs["obs"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs": torch.zeros(4, 5, 2)}, r"Observation 'obs' must be \[B, T, 3\]; got \[4, 5, 2\]"),
        ({"obs": torch.zeros(4, 5, 1, 3)}, r"must be \[B, T, 3\]; got \[4, 5, 1, 3\]"),
        (
            {"obs": {"state": torch.zeros(4, 5, 3)}},
            r"observations \['obs'\]; obs is missing from those given, \['state'\]",
        ),
        ({"actions": torch.zeros(4, 5, 3)}, r"actions of 2 numbers; the batch has 3. Build it with action_dim=3"),
    ],
)
def test_other_data_than_the_model_was_built_for(changes: dict[str, Any], message: str):
    config = make_config()
    with pytest.raises(DataError, match=message):
        align(dataclasses.replace(make_batch(config), **changes), config)
