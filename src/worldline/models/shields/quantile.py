"""A shield by quantile regression (Koenker & Bassett 1978) and distributional conformal prediction.

The score is much as in Chernozhukov, Wuthrich & Zhu: "Distributional conformal prediction" (2021, arXiv:1909.07889).
The quantiles of the return are learnt, given the state and the horizon, and with them its distribution P: uniform
between two quantiles, exponential beyond. A return is unusual where few are as extreme:

    score(state, horizon, return) = -log(2 min(P(Y <= return), P(Y >= return)))

0 for the median. Where landing returns 280 to 300 and crashing -100, and both are common, 400 is far beyond: it counts
how far the returns near that end are apart, not the width of the whole.

The horizon is not judged, only what is to be achieved in it: more time than the data ever took is not unsafe in itself,
and is read as the longest that it took. This is the cheapest shield, and blind to horizons that are impossible in a
state with any return.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.models.shields.base import BaseShield, Scorer, ShieldConfig
from worldline.nn.layers import MLP, Linear
from worldline.ops.quantile import pinball_loss, quantile_log_density, quantile_log_tail, rising_quantiles
from worldline.statistics import ColumnStatistics

SIZES: dict[str, dict[str, Any]] = {
    "small": {"units": 128, "layers": 3},
    "base": {"units": 256, "layers": 4},
}
_NUM_ANCHORS = 8
_MIN_GAP = 1e-4  # between neighbouring quantiles, normalised: where returns follow from the state, scores stay finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantileShieldConfig(ShieldConfig):
    """Settings of the quantile shield; the defaults are those of size small."""

    layers: int = 3
    tau: float = 0.9  # share of the returns between the outermost quantiles
    num_quantiles: int = 17  # K, the outermost among them

    @staticmethod
    def bounds() -> dict[str, tuple[float, float]]:
        """Return the least and greatest value of each setting."""
        return {"tau": (0.01, 0.999), "num_quantiles": (3, 1 << 10)}


class QuantileShield(BaseShield):
    """Flags returns in the tails of those of the same state and horizon."""

    family: ClassVar[str] = "quantile_shield"
    levels: Tensor
    horizons: Tensor

    def __init__(self, config: QuantileShieldConfig) -> None:
        super().__init__(config)
        outside = (1 - config.tau) / 2
        self.register_buffer("levels", torch.linspace(outside, 1 - outside, config.num_quantiles), persistent=False)
        self.register_buffer("horizons", torch.zeros(2))  # the range of the data, normalised
        self.net = MLP(self.state_dim + 1, config.units, config.layers)
        self.head = Linear(config.units, config.num_quantiles)

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the scale of the data; see `BaseShield.fit`."""
        super().fit(statistics)
        column = statistics["commands"]
        limits = torch.tensor([[column.low[0], 0.0], [column.high[0], 0.0]], device=self.horizons.device)
        self.horizons.copy_(self.commands(limits)[:, 0])

    def _losses(self, states: Tensor, commands: Tensor) -> Tensor:
        """Return the pinball loss `[N]`."""
        return pinball_loss(self._quantiles(states, commands[:, 0]), commands[:, 1], self.levels)

    @torch.no_grad()
    def quantiles(self, state: Obs, horizon: Tensor) -> Tensor:
        """Return the quantiles of the return `[B, K]` in states with horizons `[B]`, at `self.levels [K]`."""
        states, commands = self.normalized_pair(state, torch.stack((horizon, torch.zeros_like(horizon)), 1))
        return self._quantiles(states, commands[:, 0]) * self.commands.scale[1] + self.commands.shift[1]

    @torch.no_grad()
    def log_prob(self, state: Obs, command: Tensor) -> Tensor:
        """Return the log-density of the returns given state and horizon, `[B]` in nats."""
        states, commands = self.normalized_pair(state, command)
        density = quantile_log_density(self._quantiles(states, commands[:, 0]), commands[:, 1], self.levels)
        return density - self.commands.scale[1].log()

    def scorer(self, states: Tensor) -> Scorer:
        """Return what tells how unlikely returns as extreme are, in nats."""

        def score(commands: Tensor) -> Tensor:
            rows = states.repeat_interleave(commands.shape[1], 0)
            quantiles = self._quantiles(rows, commands[..., 0].flatten()).unflatten(0, commands.shape[:2])
            return -quantile_log_tail(quantiles, commands[..., 1], self.levels)

        return score

    def anchors(self, states: Tensor, commands: Tensor) -> Tensor:
        """Return medians `[B, M, 2]`, at the command's horizon and at some over the range of the data."""
        shares = torch.linspace(0, 1, _NUM_ANCHORS - 1, device=states.device)
        spread = torch.lerp(self.horizons[0], self.horizons[1], shares).expand(len(states), -1)
        horizons = torch.cat((commands[:, :1], spread), 1).clamp(min=self._low[0])  # [B, M]
        rows = states.repeat_interleave(_NUM_ANCHORS, 0)
        quantiles = self._quantiles(rows, horizons.flatten()).unflatten(0, horizons.shape)
        return torch.stack((horizons, _median(quantiles)), -1)

    def _quantiles(self, states: Tensor, horizons: Tensor) -> Tensor:
        """Return normalised quantiles `[N, K]` for states `[N, S]` and horizons `[N]`."""
        within = horizons.clamp(self.horizons[0], self.horizons[1])
        rising = rising_quantiles(self.head(self.net(torch.cat((states, within[:, None]), 1))))
        steps = torch.arange(len(self.levels), device=rising.device) - (len(self.levels) - 1) / 2
        return rising + _MIN_GAP * steps


def _median(quantiles: Tensor) -> Tensor:
    """Return the median, `[...]`, of quantiles `[..., K]`."""
    last = quantiles.shape[-1] - 1
    return (quantiles[..., last // 2] + quantiles[..., (last + 1) // 2]) / 2
