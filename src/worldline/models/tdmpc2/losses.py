"""Losses of TD-MPC2: of the world model over short rollouts, and of the policy prior (Hansen et al. 2024, eq. 3, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from worldline.models.tdmpc2.networks import Networks
from worldline.models.tdmpc2.segments import Segments
from worldline.ops.distributions import bernoulli_loss
from worldline.ops.masking import masked_mean
from worldline.ops.twohot import twohot_loss

if TYPE_CHECKING:
    from worldline.models.tdmpc2.model import TDMPC2

_LEVELS = (0.05, 0.95)  # of the values whose distance is the range


def loss_elements(
    model: TDMPC2, segments: Segments, *, deterministic: bool, pair: Sequence[int] | None = None
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Return every loss element by element with the mask of those that count (`[H, N]`), and metrics."""
    config, net, task = model.config, model.net, segments.tasks
    horizon = len(segments.rewards)
    decay = config.rho ** torch.arange(horizon + 1, device=net.device)[:, None]  # [H + 1, 1]
    elements: dict[str, tuple[Tensor, Tensor]] = {}

    # Targets: what was observed next, and what it is worth
    with torch.no_grad():
        following = {name: value[1:].flatten(0, 1) for name, value in segments.obs.items()}
        repeated = None if task is None else task.repeat(horizon)
        next_latents = net.latents(following, repeated).unflatten(0, (horizon, -1))
        targets = td_targets(net, segments, next_latents, deterministic=deterministic, pair=pair)

    # World model
    latents = rollout(net, segments)  # [H + 1, N, L]
    error = (latents[1:] - next_latents).square().mean(-1)
    elements["consistency"] = error * decay[:-1], segments.next_mask
    inputs = net.joined(latents[:-1], segments.actions, task=task)
    reward_log_probs = log_softmax(net.reward(inputs), -1)
    reward_error = twohot_loss(reward_log_probs, net.coded(segments.rewards), net.bins)
    elements["reward"] = reward_error * decay[:-1], segments.step_mask
    value_log_probs = log_softmax(net.q(inputs), -1)  # [E, H, N, K]
    coded = net.coded(targets).expand(value_log_probs.shape[:-1])
    value_error = twohot_loss(value_log_probs, coded, net.bins).mean(0)
    # A step whose next observation is unknown has a target only where nothing comes after it.
    elements["value"] = value_error * decay[:-1], segments.next_mask | segments.terminations
    if net.termination is not None:
        logits = net.termination(net.joined(latents[1:], task=task))[..., 0]
        elements["termination"] = bernoulli_loss(logits, segments.terminations), segments.step_mask

    # Policy, on detached states and values
    policy_error, metrics = policy_loss(model, latents.detach(), segments, deterministic=deterministic, pair=pair)
    elements["policy"] = policy_error * decay, segments.state_mask
    metrics["target_value"] = masked_mean(targets, elements["value"][1])
    return elements, metrics


def td_targets(
    net: Networks, segments: Segments, next_latents: Tensor, *, deterministic: bool, pair: Sequence[int] | None = None
) -> Tensor:
    """Return `[H, N]`: the reward, and the discounted lesser of two target values of the policy's next action."""
    task = segments.tasks
    params = net.policy(net.joined(next_latents, task=task))
    noise = None if deterministic else net.policy.noise(params)
    actions = net.policy.sample(params, noise, net.mask_of(task))
    inputs = net.joined(next_latents, actions, task=task)
    values = net.read(net.target_q(inputs, which=pair or net.pair(deterministic=False)))
    following = values.amin(0) * (~segments.terminations)
    return segments.rewards + net.discount_of(task) * following


def policy_loss(
    model: TDMPC2, latents: Tensor, segments: Segments, *, deterministic: bool, pair: Sequence[int] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return `[H + 1, N]`, minus value and entropy of the policy at detached `latents [H + 1, N, L]`; metrics."""
    net, task = model.net, segments.tasks
    mask = net.mask_of(task)
    params = net.policy(net.joined(latents, task=task))
    noise = None if deterministic else net.policy.noise(params)
    which = pair or net.pair(deterministic=False)
    if model.config.is_discrete:
        values = _expected_value(net, latents, params, task, which)
    else:
        actions = net.policy.sample(params, noise, mask)
        values = net.read(net.q(net.joined(latents, actions, task=task), which=which, frozen=True)).mean(0)
    if model.training:
        _update_range(model, values[0].detach(), segments.state_mask[0])
    entropy = net.policy.entropy(params, noise, mask)
    config = model.config
    scale = config.discrete_entropy_scale if config.is_discrete else config.entropy_scale
    loss = -(scale * entropy + values / model.value_range)
    metrics = {
        "policy_entropy": masked_mean(entropy.detach(), segments.state_mask),
        "policy_value": masked_mean(values.detach(), segments.state_mask),
        "value_range": model.value_range.clone(),
    }
    return loss, metrics


def rollout(net: Networks, segments: Segments) -> Tensor:
    """Return `[H + 1, N, L]`: the encoded first observation, then where the dynamics take it."""
    latent = net.latents({name: value[0] for name, value in segments.obs.items()}, segments.tasks)
    latents = [latent]
    for action in segments.actions:
        latent = net.dynamics(net.joined(latent, action, task=segments.tasks))
        latents.append(latent)
    return torch.stack(latents)


def _expected_value(
    net: Networks, latents: Tensor, params: Tensor, task: Tensor | None, which: Sequence[int] | Tensor
) -> Tensor:
    """Return the mean of the values of all choices under the policy, with gradient for the policy alone."""
    num = net.policy.action_dim
    with torch.no_grad():
        choices = torch.eye(num, device=latents.device)
        repeated = latents.unsqueeze(-2).expand(*latents.shape[:-1], num, -1)  # [H + 1, N, A, L]
        one_hot = choices.expand(*latents.shape[:-1], num, num)
        task_rows = None if task is None else task[:, None].expand(-1, num)
        values = net.read(net.q(net.joined(repeated, one_hot, task=task_rows), which=which)).mean(0)
    return (torch.softmax(net.policy.logits(params, net.mask_of(task)), -1) * values).sum(-1)


def _update_range(model: TDMPC2, values: Tensor, mask: Tensor) -> None:
    """Move the running range towards that of `values [N]` where `mask [N]` is True."""
    levels = torch.nanquantile(values.float().masked_fill(~mask, float("nan")), values.new_tensor(_LEVELS))
    spread = (levels[1] - levels[0]).clamp(min=1.0)
    spread = torch.where(spread.isnan(), model.value_range, spread)  # no value was real
    model.value_range.lerp_(spread, model.config.scale_rate)
