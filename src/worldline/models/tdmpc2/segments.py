"""From the row rule of `batch.py` to the short rollouts that TD-MPC2 learns from, time first.

The reference samples windows of H + 1 observations. Here a window of T rows is cut into ceil((T - 1) / H) segments of
H steps, each of which begins at its first observation; windows of H + 1 rows are the reference's. A segment ends where
its episode does, and what follows is masked.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.errors import DataError
from worldline.models.observations import blank, named_obs
from worldline.models.tdmpc2.config import TDMPC2Config


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """N rollouts of H steps, time first."""

    obs: dict[str, Tensor]  # name -> [H + 1, N, *obs]
    actions: Tensor  # [H, N, A]
    rewards: Tensor  # [H, N]
    terminations: Tensor  # [H, N] bool
    step_mask: Tensor  # [H, N] bool: the step, and all before it in the segment, are real
    next_mask: Tensor  # [H, N] bool: so is the observation that it led to
    state_mask: Tensor  # [H + 1, N] bool: the latent state is one of the episode
    tasks: Tensor | None  # [N] integer; None for a model of one task


def cut(batch: Batch, config: TDMPC2Config) -> Segments:
    """Return the batch as segments of at most `config.horizon` steps.

    Raises:
        DataError: Observations or actions do not have the shapes that the model was built for, there are fewer than
            two rows, or a model of several tasks was not told which.
    """
    length = batch.sequence_length
    if length < 2:
        raise DataError(
            f"TD-MPC2 learns from windows of at least 2 rows; got {length}. Sample with a larger sequence_length."
        )
    obs = named_obs(batch.obs, config.obs_shapes, leading=2)
    if batch.actions.shape[-1] != config.action_dim:
        raise DataError(
            f"The model was built for actions of {config.action_dim} numbers; the batch has "
            f"{batch.actions.shape[-1]}. Build it with action_dim={batch.actions.shape[-1]}."
        )
    horizon = min(config.horizon, length - 1)
    starts = range(0, length - 1, horizon)

    def windows(x: Tensor, rows: int) -> Tensor:
        """Return `x [B, T, ...]` as `[rows, N, ...]`, N = segments * B, with zeros beyond the last row."""
        missing = starts[-1] + rows - x.shape[1]
        if missing > 0:
            x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1)
        return torch.cat([x[:, start : start + rows] for start in starts]).transpose(0, 1)

    # The last row has no successor in the window: it takes part as an observation only.
    steps = windows(batch.step_mask[:, : length - 1], horizon)
    seen, begins = windows(batch.obs_mask, horizon + 1), windows(batch.is_first, horizon + 1)
    steps = steps & seen[:-1]
    steps[1:] &= ~begins[1:-1]
    steps = steps.cumprod(0).bool()
    terminations = windows(batch.terminations[:, : length - 1].bool(), horizon) & steps
    next_mask = steps & seen[1:] & ~begins[1:]
    return Segments(
        obs={name: blank(windows(value, horizon + 1), seen) for name, value in obs.items()},
        actions=blank(windows(batch.actions[:, : length - 1], horizon).float(), steps),
        rewards=blank(windows(batch.rewards[:, : length - 1], horizon).float(), steps),
        terminations=terminations,
        step_mask=steps,
        next_mask=next_mask,
        state_mask=torch.cat([seen[:1], next_mask]),
        tasks=windows(batch_tasks(batch, config), 1)[0] if config.num_tasks else None,
    )


def batch_tasks(batch: Batch, config: TDMPC2Config) -> Tensor:
    """Return the task of every row, `[B, T]`, from the batch's extra field "task"."""
    if "task" not in batch.extras:
        raise DataError(
            f"The model tells {config.num_tasks} tasks apart, and the batch does not say which it is of. "
            'Give the number of each row\'s task in extras["task"], [B, T].'
        )
    return batch.extras["task"].long()
