"""Distributions over sequences of actions, which a planner samples from and fits to the best samples."""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from worldline.ops.distributions import categorical_sample

SequencesT = TypeVar("SequencesT", bound="Sequences")


class Sequences(Protocol):
    """A distribution over sequences of H actions for each of N environments."""

    @property
    def mean(self) -> Tensor: ...  # [H, N, A]

    def sample(self, num: int, generator: torch.Generator | None) -> Tensor:
        """Return `num` sequences for each environment, `[H, N, S, A]`.

        A generator is for planning that must come out the same again: all environments get the same noise, so that
        what is planned for one does not depend on which others are planned for.
        """
        ...

    def fit(self: SequencesT, sequences: Tensor, weights: Tensor) -> SequencesT:
        """Return the distribution fitted to `sequences [H, N, K, A]` with `weights [N, K]` that sum to 1."""
        ...

    def explore(self, actions: Tensor) -> Tensor:
        """Return `actions [N, A]` of the first step with the noise of the distribution."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NormalSequences:
    """Independent normals, their samples cut to [-1, 1]."""

    mean: Tensor  # [H, N, A]
    std: Tensor  # [H, N, A]
    min_std: float
    max_std: float
    mask: Tensor | None = None  # [N, A] bool, the actions that there are; the others stay zero

    @classmethod
    def start(
        cls,
        previous: Tensor | None,
        shape: tuple[int, int, int],
        *,
        min_std: float,
        max_std: float,
        mask: Tensor | None = None,
        device: torch.device | None = None,
    ) -> NormalSequences:
        """Return the widest distribution, about the last plan moved on by a step (`previous [H, N, A]`) or zero."""
        mean = torch.zeros(shape, device=device) if previous is None else shifted(previous, 0.0)
        return cls(mean=mean, std=torch.full_like(mean, max_std), min_std=min_std, max_std=max_std, mask=mask)

    def sample(self, num: int, generator: torch.Generator | None) -> Tensor:
        """Draw `[H, N, S, A]`."""
        horizon, envs, size = self.mean.shape
        shape = (horizon, envs if generator is None else 1, num, size)
        noise = torch.randn(shape, device=self.mean.device, generator=generator)
        return self._masked((self.mean[:, :, None] + self.std[:, :, None] * noise).clamp_(-1, 1))

    def fit(self, sequences: Tensor, weights: Tensor) -> NormalSequences:
        """Return weighted mean and standard deviation, the latter within its bounds."""
        share = weights[..., None]
        mean = (share * sequences).sum(2)
        std = (share * (sequences - mean[:, :, None]).square()).sum(2).sqrt()
        return dataclasses.replace(self, mean=mean, std=std.clamp(self.min_std, self.max_std))

    def explore(self, actions: Tensor) -> Tensor:
        """Add the first step's noise."""
        noisy = (actions + self.std[0] * torch.randn_like(actions)).clamp(-1, 1)
        return noisy if self.mask is None else noisy * self.mask

    def _masked(self, actions: Tensor) -> Tensor:
        return actions if self.mask is None else actions * self.mask[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CategoricalSequences:
    """Independent choices as one-hot vectors, mixed with a share of the uniform distribution."""

    mean: Tensor  # [H, N, A], probabilities before mixing
    floor: float  # the uniform distribution's share
    mask: Tensor | None = None  # [N, A] bool, the choices that there are

    @classmethod
    def start(
        cls,
        previous: Tensor | None,
        shape: tuple[int, int, int],
        *,
        floor: float,
        mask: Tensor | None = None,
        device: torch.device | None = None,
    ) -> CategoricalSequences:
        """Return the uniform distribution, half of it the last plan moved on by a step where there is one."""
        mean = torch.full(shape, 1 / shape[-1], device=device)
        if previous is not None:
            mean = 0.5 * (mean + shifted(previous, 1 / shape[-1]))
        return cls(mean=mean, floor=floor, mask=mask)

    @property
    def probs(self) -> Tensor:
        """`[H, N, A]`, what is sampled from."""
        mixed = self.mean * (1 - self.floor) + self.floor / self.mean.shape[-1]
        if self.mask is None:
            return mixed
        mixed = mixed * self.mask
        return mixed / mixed.sum(-1, keepdim=True)

    def sample(self, num: int, generator: torch.Generator | None) -> Tensor:
        """Draw `[H, N, S, A]`, one-hot."""
        horizon, envs, size = self.mean.shape
        shape = (horizon, envs if generator is None else 1, num)
        uniform = torch.rand(shape, device=self.mean.device, generator=generator).expand(horizon, envs, num)
        return categorical_sample(self.probs[:, :, None].expand(horizon, envs, num, size), uniform)

    def fit(self, sequences: Tensor, weights: Tensor) -> CategoricalSequences:
        """Return the weighted frequencies."""
        return dataclasses.replace(self, mean=(weights[..., None] * sequences).sum(2))

    def explore(self, actions: Tensor) -> Tensor:
        """Replace the floor's share of the actions by uniform choices."""
        envs = actions.shape[0]
        allowed = torch.ones_like(actions) if self.mask is None else self.mask.to(actions.dtype)
        random = categorical_sample(allowed, torch.rand(envs, device=actions.device))
        replaced = torch.rand(envs, 1, device=actions.device) < self.floor
        return torch.where(replaced, random, actions)


def every_sequence(horizon: int, num_choices: int, *, device: torch.device | None = None) -> Tensor:
    """Return all sequences of one-hot choices, `[H, A ** H, A]`."""
    choices = torch.arange(num_choices, device=device)
    indices = torch.cartesian_prod(*[choices] * horizon).view(-1, horizon)  # of one step, it returns a vector
    return torch.nn.functional.one_hot(indices.T, num_choices).float()


def shifted(sequence: Tensor, fill: float) -> Tensor:
    """Return `sequence [H, ...]` moved on by one step, with `fill` for the last."""
    return torch.cat([sequence[1:], torch.full_like(sequence[:1], fill)])
