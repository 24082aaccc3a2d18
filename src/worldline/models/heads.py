"""What turns features into a chunk of actions: a regression, a diffusion or a flow, each with its loss and its sampler.

All three see normalised actions `[B, H, A]` and features `[B, D]`, and are interchangeable.
"""

from __future__ import annotations

import abc
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from worldline.models.chunks import mean_over_actions
from worldline.models.denoiser import Denoiser
from worldline.ops.diffusion import (
    add_noise,
    cumulative_alphas,
    ddim_step,
    make_betas,
    spaced_levels,
    velocity,
    x0_from_noise,
    x0_from_velocity,
)
from worldline.ops.flow import Solver, even_times, integrate, interpolate, target_velocity

Prediction: TypeAlias = Literal["noise", "velocity"]

_MAX_ACTION = 1.0  # of actions normalised by their range


class Head(nn.Module, abc.ABC):
    """From features to a chunk of actions."""

    @abc.abstractmethod
    def loss(self, features: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """Return the loss `[]` of `actions [B, H, A]` given `features [B, D]`, over the rows of `mask [B, H]`."""

    @abc.abstractmethod
    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return actions `[N, H, A]` for `features [N, D]`, from standard normal `noise [N, H, A]`."""


class RegressionHead(Head):
    """One chunk for each observation, learnt by its absolute error."""

    def __init__(self, features: int, horizon: int, action_dim: int, *, units: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, units),
            nn.SiLU(),
            nn.Linear(units, units),
            nn.SiLU(),
            nn.Linear(units, horizon * action_dim),
        )
        self.shape = (horizon, action_dim)

    def loss(self, features: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """Return the mean absolute error."""
        return mean_over_actions((self._chunk(features) - actions).abs(), mask)

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return the chunk; the noise is not used."""
        return self._chunk(features)

    def _chunk(self, features: Tensor) -> Tensor:
        chunk: Tensor = self.net(features).float().unflatten(-1, self.shape)
        return chunk


class DiffusionHead(Head):
    """Learns what is noise in noisy chunks (Ho, Jain & Abbeel 2020), and removes it in few steps (DDIM).

    Args:
        denoiser: Sees levels counted from 0.
        num_levels: K of the squared-cosine schedule.
        num_steps: Of sampling.
        prediction: What the network says: the "noise", or the "velocity" v (Salimans & Ho 2022), from which the chunk
            follows without a division by the little of it that is left at high levels.
    """

    alpha_bar: Tensor

    def __init__(self, denoiser: Denoiser, *, num_levels: int, num_steps: int, prediction: Prediction) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.num_steps = num_steps
        self.prediction: Prediction = prediction
        self.register_buffer("alpha_bar", cumulative_alphas(make_betas("cosine", num_levels)))  # [K]

    def loss(self, features: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error of the prediction, at one random level for each chunk."""
        level = torch.randint(len(self.alpha_bar), (len(actions),), device=actions.device)  # [B]
        noise = torch.randn_like(actions)
        alpha_bar = self.alpha_bar[level]
        target = noise if self.prediction == "noise" else velocity(actions, noise, alpha_bar)
        predicted = self.denoiser(add_noise(actions, noise, alpha_bar), level, features)
        return mean_over_actions((predicted - target).square(), mask)

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return chunks; every estimate of the clean one is kept in the range of the data."""
        x, clean = noise, torch.ones((), device=noise.device)
        clean_of = x0_from_noise if self.prediction == "noise" else x0_from_velocity
        levels = spaced_levels(len(self.alpha_bar), self.num_steps)
        for level, below in zip(levels, [*levels[1:], None], strict=True):
            at = torch.full((len(x),), level, device=x.device)
            x0 = clean_of(x, self.denoiser(x, at, features), self.alpha_bar[level])
            x0 = x0.clamp(-_MAX_ACTION, _MAX_ACTION)
            x = ddim_step(x, x0, self.alpha_bar[level], clean if below is None else self.alpha_bar[below])
        return x


class FlowHead(Head):
    """Learns the velocity that carries noise to chunks on straight lines (Lipman et al. 2023), and follows it.

    Args:
        denoiser: Sees times in [0, 1], 1 being the data.
        num_steps: Of the solver.
        solver: Of the differential equation.
    """

    def __init__(self, denoiser: Denoiser, *, num_steps: int, solver: Solver) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.num_steps = num_steps
        self.solver: Solver = solver

    def loss(self, features: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error of the velocity, at one random time for each chunk."""
        time = torch.rand(len(actions), device=actions.device)  # [B]
        noise = torch.randn_like(actions)
        predicted = self.denoiser(interpolate(actions, noise, time), time, features)
        return mean_over_actions((predicted - target_velocity(actions, noise)).square(), mask)

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return chunks, in the range of the data."""

        def velocity(time: float, x: Tensor) -> Tensor:
            found: Tensor = self.denoiser(x, torch.full((len(x),), time, device=x.device), features)
            return found

        return integrate(velocity, noise, even_times(self.num_steps), self.solver).clamp(-_MAX_ACTION, _MAX_ACTION)
