"""The policy prior: a squashed normal, or a categorical where actions are discrete."""

from __future__ import annotations

import torch
from torch import Tensor

from worldline.models.tdmpc2.config import TDMPC2Config
from worldline.nn.normed import NormedMLP
from worldline.ops.distributions import categorical_entropy, categorical_sample, normal_log_prob


class PolicyHead(NormedMLP):
    """A policy over continuous or discrete actions. Its output `params` describes the distribution."""

    def __init__(self, config: TDMPC2Config) -> None:
        self.is_discrete, self.action_dim = config.is_discrete, config.action_dim
        self.log_std_min, self.log_std_max = config.log_std_min, config.log_std_max
        size = config.action_dim if self.is_discrete else 2 * config.action_dim
        super().__init__(config.latent + config.embedding_dim, config.units, 3, size)

    def noise(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise for `params [..., P]`: uniform `[...]` for discrete actions, normal `[..., A]` for others."""
        if self.is_discrete:
            return torch.rand(params.shape[:-1], device=params.device, generator=generator)
        shape = (*params.shape[:-1], self.action_dim)
        return torch.randn(shape, device=params.device, generator=generator)

    def sample(self, params: Tensor, noise: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Return actions `[..., A]`: one-hot without gradient where discrete, within [-1, 1] where continuous.

        Args:
            params: `[..., P]`.
            noise: As `noise` draws it; None takes the mode.
            mask: `[..., A]` bool, the actions that the task has; None for all.
        """
        if self.is_discrete:
            return categorical_sample(torch.softmax(self.logits(params, mask), -1), noise)
        mean, log_std = self.normal(params, mask)
        action = torch.tanh(mean if noise is None else mean + noise * log_std.exp())
        return action if mask is None else action * mask

    def logits(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits `[..., A]` of discrete actions, lowest where `mask` is False."""
        return params if mask is None else params.masked_fill(~mask, -1e9)

    def normal(self, params: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before squashing, each `[..., A]`, zero where `mask` is False."""
        mean, raw = params.chunk(2, -1)
        log_std = self.log_std_min + 0.5 * (self.log_std_max - self.log_std_min) * (torch.tanh(raw) + 1)
        return (mean, log_std) if mask is None else (mean * mask, log_std * mask)

    def entropy(self, params: Tensor, noise: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Return what the policy is rewarded for besides values, `[...]`: entropy in nats, times its dimensions.

        For continuous actions an estimate: minus the log-density of the normal at the noise, before squashing, times
        the number of actions. The reference arrives at it by a quotient of squashed log-probabilities that cancel.
        """
        if self.is_discrete:
            return categorical_entropy(torch.log_softmax(self.logits(params, mask), -1))
        _, log_std = self.normal(params, mask)
        noise = torch.zeros_like(log_std) if noise is None else noise
        if mask is not None:
            noise = noise * mask
        # The normal's log-density as a function of the noise: the value's distance in deviations is the noise itself.
        log_prob = (normal_log_prob(noise, torch.zeros_like(noise), torch.ones_like(noise)) - log_std).sum(-1)
        count = self.action_dim if mask is None else mask.sum(-1)
        return -log_prob * count
