"""Actor and critic losses: on imagined trajectories and on replayed ones (Hafner et al. 2023, eq. 6 to 9)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from worldline.models.dreamerv3.rows import Rows
from worldline.ops.masking import masked_mean
from worldline.ops.returns import lambda_return
from worldline.ops.twohot import twohot_loss, twohot_mean

if TYPE_CHECKING:
    from worldline.models.dreamerv3.model import DreamerV3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImaginedBehavior:
    """H steps of behaviour from N states. Features stay apart by step: a joined copy would not fit a cache."""

    features: list[Tensor]  # H + 1 of [N, F], the start's first, detached
    policy: Tensor  # [H, N, P], the policy's output where each action was taken, with gradient
    actions: Tensor  # [H, N, A], detached


def imagination_losses(
    model: DreamerV3, imagined: ImaginedBehavior, first_continues: Tensor, first_slow: Tensor, valid: Tensor
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Return the actor's and critic's losses, the returns of the starts, and metrics.

    Args:
        model: Whose heads judge the trajectories; in training mode its range of returns is updated.
        imagined: The trajectories.
        first_continues: `[N]`, the continuation (with discount) at the starts, known from the world model's loss.
        first_slow: `[N]`, the slow critic's values there, likewise.
        valid: `[N]` bool, which starts are real.

    Returns:
        {"policy", "value"} with `[N]` means over time, returns `[N]`, metrics.
    """
    config, bins = model.config, model.bins
    log_probs = [log_softmax(model.value(features), -1) for features in imagined.features[:-1]]  # H of [N, K]
    with torch.no_grad():
        later = imagined.features[1:]
        rewards = torch.stack([model.read(model.reward, features) for features in later])
        continues = torch.stack([torch.sigmoid(model.continuation(features)[:, 0]) for features in later])
        last_value = model.read(model.value, later[-1])
        slow_values = [first_slow, *(model.read(model.slow_value, features) for features in later[:-1])]
        values = torch.stack([twohot_mean(step.exp(), bins) for step in log_probs])
        # The continuation head has the discount in it.
        returns = lambda_return(
            rewards, continues, torch.cat([values[1:], last_value[None]]), last_value, mixing=config.return_lambda
        )
        weights = torch.cat([first_continues[None], continues[:-1]]).cumprod(0)  # [H, N]
        scale = _return_scale(model, returns, valid)
        advantages = (returns - values) / scale
    entropy = model.actor.entropy(imagined.policy)
    policy_loss = model.actor.log_prob(imagined.policy, imagined.actions) * advantages + config.entropy_scale * entropy
    value_losses = [
        twohot_loss(step, target, bins) + config.slow_value_scale * twohot_loss(step, slow, bins)
        for step, target, slow in zip(log_probs, returns.unbind(0), slow_values, strict=True)
    ]
    losses = {"policy": -(weights * policy_loss).mean(0), "value": (weights * torch.stack(value_losses)).mean(0)}
    return losses, returns[0], _metrics(model, advantages, returns, rewards, entropy.detach(), valid)


def replay_value_loss(
    model: DreamerV3, rows: Rows, value_log_probs: Tensor, slow_values: Tensor, bootstrap: Tensor
) -> Tensor:
    """Return the critic's loss `[T - 1, B]` on the replayed trajectories, whose gradient reaches the world model.

    Args:
        model: Whose bins and coefficients are used.
        rows: The replayed trajectories.
        value_log_probs: `[T, B, K]`, of the critic's bins, with gradient.
        slow_values: `[T, B]`, the slow critic's.
        bootstrap: `[T, B]`, the imagined return from each row.
    """
    config = model.config
    discount = 1 - 1 / config.discount_horizon
    goes_on = (~rows.is_last[1:]).float()
    returns = lambda_return(
        rows.rewards[1:],
        (~rows.is_terminal[1:]).float() * discount,
        bootstrap[1:],
        bootstrap[-1],
        # An episode's last row has nothing after it: all of the weight is on its own value.
        mixing=goes_on * config.return_lambda,
    )
    loss = twohot_loss(value_log_probs[:-1], returns, model.bins)
    loss = loss + config.slow_value_scale * twohot_loss(value_log_probs[:-1], slow_values[:-1], model.bins)
    return loss * (~rows.is_last[:-1]).float()


def _return_scale(model: DreamerV3, returns: Tensor, valid: Tensor) -> Tensor:
    """Return what advantages are divided by: the running range of returns between its 5th and 95th percentile."""
    if model.training:
        real = returns.masked_fill(~valid, torch.nan)
        quantiles = torch.nanquantile(real.flatten(), model.return_levels)
        model.return_low.lerp_(quantiles[0], model.config.return_rate)
        model.return_high.lerp_(quantiles[1], model.config.return_rate)
    return (model.return_high - model.return_low).clamp(min=model.config.return_limit)


def _metrics(
    model: DreamerV3, advantages: Tensor, returns: Tensor, rewards: Tensor, entropy: Tensor, valid: Tensor
) -> dict[str, Tensor]:
    mask = valid.expand_as(returns)
    return {
        "imagined_return": masked_mean(returns, mask),
        "imagined_reward": masked_mean(rewards, mask),
        "advantage": masked_mean(advantages, mask),
        "advantage_magnitude": masked_mean(advantages.abs(), mask),
        "policy_entropy": masked_mean(entropy, mask),
        "policy_randomness": masked_mean(model.actor.randomness(entropy), mask),
        "return_range": model.return_high - model.return_low,
    }
