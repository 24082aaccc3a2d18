"""From the row rule of `batch.py` to what DreamerV3 learns from, time first.

A batch's row t holds the reward and flags that its action led to. DreamerV3's row t holds the action that led to it,
and the reward and flags on arrival. So everything but the observation moves down one row; what arrived at row 0 is
unknown, unless row 0 begins an episode, when it is no action, no reward and no end.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.errors import DataError
from worldline.models.dreamerv3.config import DreamerV3Config
from worldline.models.observations import blank, named_obs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """A batch with rewards at arrival, time first."""

    obs: dict[str, Tensor]  # name -> [T, B, *obs]
    prev_actions: Tensor  # [T, B, A], the action that led to the row
    rewards: Tensor  # [T, B], on arrival
    is_first: Tensor  # [T, B] bool, an episode begins here
    is_last: Tensor  # [T, B] bool, an episode ends here, for good or by a time limit
    is_terminal: Tensor  # [T, B] bool, it ended for good
    valid: Tensor  # [T, B] bool, the row is a state of the episode, not padding
    obs_mask: Tensor  # [T, B] bool, its observation is known; where it is not, tokens of zero stand for it
    arrival_mask: Tensor  # [T, B] bool, its reward and is_terminal are known


def align(batch: Batch, config: DreamerV3Config) -> Rows:
    """Return the batch as DreamerV3's rows.

    Where an episode was recorded without its final observation, the state that it ended in is encoded with tokens of
    zero if it is terminal: the last reward and the end are still learnt from it. After a time limit it is left out,
    and the episode ends one row earlier: the value of a state that nobody saw would be a guess.

    Raises:
        DataError: Observations or actions do not have the shapes that the model was built for, or there are fewer
            than two rows.
    """
    if batch.sequence_length < 2:
        raise DataError(
            f"DreamerV3 learns from windows of at least 2 rows; got {batch.sequence_length}. "
            "Sample with a larger sequence_length."
        )
    obs = named_obs(batch.obs, config.obs_shapes, leading=2)
    if batch.actions.shape[-1] != config.action_dim:
        raise DataError(
            f"The model was built for actions of {config.action_dim} numbers; the batch has "
            f"{batch.actions.shape[-1]}. Build it with action_dim={batch.actions.shape[-1]}."
        )
    steps = batch.step_mask.transpose(0, 1)
    is_first, obs_mask = batch.is_first.transpose(0, 1), batch.obs_mask.transpose(0, 1)
    led_on = _shift(steps)  # row t - 1 was a step, so row t is where it led
    is_terminal = led_on & _shift(batch.terminations.transpose(0, 1).bool())
    is_lost = led_on & ~steps & ~obs_mask & ~is_terminal
    arrived = led_on & ~is_lost
    valid = steps | arrived
    return Rows(
        obs={name: blank(value.transpose(0, 1), obs_mask) for name, value in obs.items()},
        prev_actions=blank(_shift(batch.actions.transpose(0, 1)).float(), arrived),
        rewards=blank(_shift(batch.rewards.transpose(0, 1)).float(), arrived),
        is_first=is_first,
        is_last=(arrived & ~steps) | _shift_back(is_lost),
        is_terminal=is_terminal,
        valid=valid,
        obs_mask=obs_mask & valid,
        arrival_mask=arrived | is_first,
    )


def _shift(x: Tensor) -> Tensor:
    """Move `[T, B, ...]` down one row, with zeros at row 0."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _shift_back(x: Tensor) -> Tensor:
    """Move `[T, B]` up one row, with zeros at the last."""
    return torch.cat([x[1:], torch.zeros_like(x[:1])])
