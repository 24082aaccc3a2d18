"""Returns along a trajectory, time first."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(
    rewards: Tensor, continues: Tensor, values: Tensor, bootstrap: Tensor, *, mixing: Tensor | float
) -> Tensor:
    """Return TD(lambda) returns `[H, B]` (Sutton & Barto 2018, eq. 12.18), time first.

    R_t = r_t + c_t ((1 - m_t) v_t + m_t R_{t+1}), with R_H = bootstrap.

    Args:
        rewards: `[H, B]`, the reward that step t leads to.
        continues: `[H, B]`, discount times the probability that the episode goes on after step t.
        values: `[H, B]`, the value of the state that step t leads to.
        bootstrap: `[B]`, the value of the last of those states, which stands for all that follows.
        mixing: lambda, a number or `[H, B]`.
    """
    shape = rewards.shape
    assert rewards.ndim == 2, f"rewards must be [H, B]; got {tuple(shape)}"
    assert continues.shape == values.shape == shape, (
        f"continues {tuple(continues.shape)} and values {tuple(values.shape)} must be {tuple(shape)}"
    )
    assert bootstrap.shape == shape[1:], f"bootstrap must be {tuple(shape[1:])}; got {tuple(bootstrap.shape)}"
    base = rewards + continues * (1 - mixing) * values
    decay = continues * mixing
    returns = []
    following = bootstrap
    for step_base, step_decay in zip(reversed(base.unbind(0)), reversed(decay.unbind(0)), strict=True):
        following = torch.addcmul(step_base, step_decay, following)
        returns.append(following)
    return torch.stack(returns[::-1])
