"""Discrete actions as rows of one-hot choices: one action, or several side by side."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from worldline.errors import ConfigError
from worldline.ops.distributions import categorical_sample


class ActionSettings(Protocol):
    """What a configuration says of actions, as a `DataSpec` has it."""

    @property
    def action_dim(self) -> int: ...  # A, the width of an action row

    @property
    def action_type(self) -> str: ...  # "discrete", "multi_discrete" or "continuous"

    @property
    def action_sizes(self) -> tuple[int, ...]: ...  # choices of each action of a multi-discrete space; they sum to A


def choices_of(settings: ActionSettings) -> tuple[int, ...]:
    """Return the number of choices of each discrete action; empty where actions are continuous."""
    if settings.action_type == "discrete":
        return (settings.action_dim,)
    return settings.action_sizes if settings.action_type == "multi_discrete" else ()


def check_actions(settings: ActionSettings) -> None:
    """Check that the settings fit together.

    Raises:
        ConfigError: They do not, or a discrete action has one choice.
    """
    choices = choices_of(settings)
    if settings.action_dim < 1:
        raise ConfigError(f"action_dim must be at least 1; got {settings.action_dim}.")
    if settings.action_type == "multi_discrete" and sum(choices) != settings.action_dim:
        raise ConfigError(
            f"action_sizes must sum to action_dim={settings.action_dim} where actions are multi-discrete; "
            f"got {choices}, which sums to {sum(choices)}."
        )
    if choices and (max(choices) < 2 or min(choices) < 1):
        raise ConfigError(
            f"A discrete action needs at least 2 choices; got {choices}. For {settings.action_dim} continuous "
            'numbers say action_type="continuous".'
        )


def choices_log_prob(logits: Tensor, actions: Tensor, choices: tuple[int, ...]) -> Tensor:
    """Return the log-probability of one-hot `actions [..., A]`, `[...]` in nats, given `logits [..., A]`."""
    log_probs = torch.cat([F.log_softmax(part, -1) for part in logits.split(choices, -1)], -1)
    return (log_probs * actions).sum(-1)


def choose(logits: Tensor, choices: tuple[int, ...], *, deterministic: bool) -> Tensor:
    """Return one-hot actions `[..., A]`: the likeliest ones, or a sample by torch's default generator."""
    parts = logits.split(choices, -1)
    if deterministic:
        return torch.cat([categorical_sample(part, None) for part in parts], -1)
    probs = [torch.softmax(part, -1) for part in parts]
    return torch.cat([categorical_sample(part, torch.rand_like(part[..., 0])) for part in probs], -1)
