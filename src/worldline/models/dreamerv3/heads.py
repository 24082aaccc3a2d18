"""What is read off a latent state: reward, continuation, value and action."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldline.models.dreamerv3.config import DreamerV3Config
from worldline.nn.layers import MLP, Linear
from worldline.ops.distributions import (
    categorical_entropy,
    categorical_sample,
    normal_entropy,
    normal_log_prob,
)


class Head(nn.Module):
    """An MLP and a linear output of `size` numbers."""

    def __init__(self, features: int, units: int, layers: int, size: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.mlp = MLP(features, units, layers)
        self.out = Linear(units, size, scale=scale)

    def forward(self, features: Tensor) -> Tensor:
        """Map `[..., F]` to `[..., size]` in float32."""
        output: Tensor = self.out(self.mlp(features))
        return output.float()


class ActionHead(Head):
    """A policy over discrete, multi-discrete or continuous actions.

    Its output `params` describes the distribution; everything else is a function of it.
    """

    def __init__(self, config: DreamerV3Config) -> None:
        self.choices, self.action_dim = config.choices, config.action_dim
        self.min_std, self.max_std = config.min_std, config.max_std
        size = config.action_dim if config.choices else 2 * config.action_dim
        features = config.deter + config.stoch * config.classes
        super().__init__(features, config.units, config.policy_layers, size, scale=config.policy_init_scale)

    @property
    def noise_dim(self) -> int:
        """How many random numbers one action takes."""
        return len(self.choices) or self.action_dim

    def noise(self, *shape: int, device: torch.device) -> Tensor:
        """Draw noise `[*shape, noise_dim]`: uniform for discrete actions, normal for continuous ones."""
        draw = torch.rand if self.choices else torch.randn
        return draw(*shape, self.noise_dim, device=device)

    def sample(self, params: Tensor, noise: Tensor | None) -> Tensor:
        """Return actions `[..., A]` without gradient: one-hot where discrete; `noise=None` takes the mode."""
        params = params.detach()
        if not self.choices:
            mean, std = self._normal(params)
            return mean if noise is None else torch.addcmul(mean, std, noise)
        parts = params.split(self.choices, -1)
        samples = [
            categorical_sample(torch.softmax(part, -1), None if noise is None else noise[..., index])
            for index, part in enumerate(parts)
        ]
        return torch.cat(samples, -1)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Return the log-probability `[...]` of `action [..., A]`, nats."""
        if not self.choices:
            return normal_log_prob(action, *self._normal(params)).sum(-1)
        return (self._log_probs(params) * action).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Return the entropy `[...]`, nats."""
        if not self.choices:
            return normal_entropy(self._normal(params)[1]).sum(-1)
        parts = [categorical_entropy(torch.log_softmax(part, -1)) for part in params.split(self.choices, -1)]
        return torch.stack(parts).sum(0)

    def randomness(self, entropy: Tensor) -> Tensor:
        """Return entropy on a scale from 0 (as certain as can be) to 1 (uniform, or the largest deviation)."""
        if self.choices:
            return entropy / sum(math.log(count) for count in self.choices)
        # The constant of a normal's entropy cancels.
        lowest, highest = (self.action_dim * math.log(std) for std in (self.min_std, self.max_std))
        constant = self.action_dim * 0.5 * math.log(2 * math.pi * math.e)
        return (entropy - constant - lowest) / (highest - lowest)

    def _log_probs(self, params: Tensor) -> Tensor:
        return torch.cat([torch.log_softmax(part, -1) for part in params.split(self.choices, -1)], -1)

    def _normal(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = params.chunk(2, -1)
        return torch.tanh(mean), (self.max_std - self.min_std) * torch.sigmoid(std + 2.0) + self.min_std
