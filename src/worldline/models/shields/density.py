"""Shields whose model is a flow: an ordinary differential equation that carries noise to commands.

The log-density of a command is exact up to the error of the solver (Chen, Rubanova, Bettencourt & Duvenaud 2018): with
dx/dt = v(x, t), from the data's end of time t_1 to that of the noise t_0, where the density is that of N(0, I),

    log p(x(t_1)) = log N(x(t_0); 0, I) + integral of div v(x(t), t) dt from t_1 to t_0

`score` is not that density alone. Where much is possible, all densities are low: one threshold for all states would
flag every command there. So the density is compared with those of typical commands of the same state:

    score(state, command) = median log p(anchors | state) - log p(command | state)

The anchors are where the flow takes eight fixed points of the normal distribution. One of them is at least as likely as
their median, so it scores 0 or less.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.models.shields.base import BaseShield, Scorer, ShieldConfig
from worldline.nn.velocity import VelocityNet
from worldline.ops.flow import Solver, integrate, stage_times
from worldline.statistics import ColumnStatistics

_NUM_ANCHORS = 8
_ANCHOR_STEPS = 4  # of the midpoint rule: wherever they come to lie, anchors are scored like any other command
_CHUNK = 1024  # commands at a time: what a layer works on stays in the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityConfig(ShieldConfig):
    """Settings of shields that are flows."""

    time_features: int = 64  # of the embedding of time
    num_solver_steps: int = 8  # of the fourth-order solver, for densities and samples

    @staticmethod
    def bounds() -> dict[str, tuple[float, float]]:
        """Return the least and greatest value of each setting."""
        return {"time_features": (4, 1 << 12), "num_solver_steps": (1, 1 << 12)}


class DensityShield(BaseShield, abc.ABC):
    """A shield with an exact density."""

    def __init__(self, config: DensityConfig) -> None:
        super().__init__(config)
        self.config: DensityConfig = config
        self.net = VelocityNet(
            2, self.state_dim, units=config.units, layers=config.layers, time_features=config.time_features
        )
        self.register_buffer("anchor_noise", _spread_normals(_NUM_ANCHORS), persistent=False)
        self.anchor_noise: Tensor

    @abc.abstractmethod
    def times(self, num_steps: int) -> list[float]:
        """Return the ends of the solver's steps, from the noise's end of time to that of the data."""

    @abc.abstractmethod
    def drift(self, t: float) -> float:
        """Return a: the velocity is a(t) x plus what the network says."""

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the scale of the data; see `BaseShield.fit`."""
        super().fit(statistics)
        column = statistics["commands"]
        low, high = (
            self.commands(torch.from_numpy(limit).to(self.commands.shift.device)) for limit in (column.low, column.high)
        )
        margin = 0.5 + 3 * self.config.smoothing
        self.net.set_range(low - margin, high + margin)

    @torch.no_grad()
    def log_prob(self, state: Obs, command: Tensor) -> Tensor:
        """Return the log-density of commands `[B, 2]` in their states, `[B]` in nats, in units of steps and return."""
        states, commands = self.normalized_pair(state, command)
        return self.log_density(commands, self.net.encode(states)) - self.commands.scale.log().sum()

    @torch.no_grad()
    def sample(
        self, state: Obs, num_samples: int, num_steps: int | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return commands `[B, N, 2]` drawn from the shield's density in each state.

        Args:
            state: Observations `[B, *obs]`.
            num_samples: N.
            num_steps: Of the solver; None means as many as for densities.
            generator: Draws the noise; None means torch's default generator.
        """
        states = self._normalized_states(state)
        noise = torch.randn(len(states), num_samples, 2, generator=generator).to(states)
        times = self.times(num_steps or self.config.num_solver_steps)
        return self.commands.inverse(self.push(noise, self.net.encode(states), times))

    def scorer(self, states: Tensor) -> Scorer:
        """Return what compares densities with those of the anchors; see the module's docstring."""
        encoded = self.net.encode(states)
        anchors = self._anchors(encoded)  # [B, M, 2]
        typical: Tensor | None = None  # [B, 1]

        def score(commands: Tensor) -> Tensor:
            nonlocal typical
            if typical is not None:
                return typical - self._densities(commands, encoded)
            # The first time, in one go: of a few commands, most of the time is that of calls.
            densities = self._densities(torch.cat((anchors, commands), 1), encoded)
            typical = densities[:, :_NUM_ANCHORS].median(1, keepdim=True).values
            return typical - densities[:, _NUM_ANCHORS:]

        return score

    def anchors(self, states: Tensor, commands: Tensor) -> Tensor:
        """Return where the flow takes a few fixed points, `[B, M, 2]`, at horizons of 1 or more."""
        return self._anchors(self.net.encode(states))

    def push(self, noise: Tensor, encoded: Tensor, times: list[float], solver: Solver = "rk4") -> Tensor:
        """Return where the flow carries `noise [B, N, 2]` in states `encoded [B, U]`, normalised."""
        rows = encoded.repeat_interleave(noise.shape[1], 0)
        offsets = self._offsets(times, solver)

        def velocity(t: float, x: Tensor) -> Tensor:
            return self.net.velocity(x, offsets(t), rows).add_(x, alpha=self.drift(t))

        return integrate(velocity, noise.flatten(0, 1), times, solver).view_as(noise)

    def log_density(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Return the log-density `[N]` of normalised commands `x [N, 2]`, each in its state, `encoded [N, U]`."""
        times = self.times(self.config.num_solver_steps)[::-1]
        offsets = self._offsets(times, "rk4")
        pieces = zip(x.split(_CHUNK), encoded.split(_CHUNK), strict=True)
        return torch.cat([self._log_density(piece, rows, times, offsets) for piece, rows in pieces])

    def _log_density(
        self, x: Tensor, encoded: Tensor, times: list[float], offsets: Callable[[float], Sequence[Tensor]]
    ) -> Tensor:
        field = self.net.with_divergence(encoded)

        def rates(t: float, state: Tensor) -> Tensor:
            """Return the velocity of x and the divergence, `[N, 3]`, for x and what was integrated so far."""
            x, drift = state[:, :2], self.drift(t)
            velocity, divergence = field(x, offsets(t))
            return torch.cat((velocity.add_(x, alpha=drift), divergence.add_(2 * drift)[:, None]), 1)

        end = integrate(rates, torch.cat((x, torch.zeros_like(x[:, :1])), 1), times)
        return end[:, 2] - end[:, :2].square().sum(1) / 2 - math.log(2 * math.pi)

    def _densities(self, commands: Tensor, encoded: Tensor) -> Tensor:
        """Return the log-density `[B, N]` of `commands [B, N, 2]` in states `encoded [B, U]`."""
        rows = encoded.repeat_interleave(commands.shape[1], 0)
        return self.log_density(commands.flatten(0, 1), rows).view(commands.shape[:2])

    def _anchors(self, encoded: Tensor) -> Tensor:
        noise = self.anchor_noise.expand(len(encoded), -1, -1)
        return self.push(noise, encoded, self.times(_ANCHOR_STEPS), "midpoint").maximum(self._low)

    def _offsets(self, times: list[float], solver: Solver) -> Callable[[float], Sequence[Tensor]]:
        """Return what looks up the network's offsets, `[U]` of each layer, at any time that the solver will ask for."""
        asked = stage_times(times, solver)
        table = self.net.offsets(torch.tensor(asked, device=self.net.low.device))  # [number of times, L, U]
        found = {time: offsets.unbind(0) for time, offsets in zip(asked, table.unbind(0), strict=True)}
        return found.__getitem__


def _spread_normals(num: int) -> Tensor:
    """Return `num` points `[M, 2]` spread as a normal distribution is: radii at its quantiles, angles all apart."""
    ranks = torch.arange(num) + 0.5
    radii = (-2 * torch.log1p(-ranks / num)).sqrt()
    angles = ranks * math.pi * (3 - math.sqrt(5))
    return torch.stack((radii * angles.cos(), radii * angles.sin()), 1)
