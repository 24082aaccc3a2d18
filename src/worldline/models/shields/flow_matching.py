"""A shield by flow matching (Lipman, Chen, Ben-Hamu, Nickel & Le: "Flow Matching for Generative Modeling", 2023).

The velocity that carries noise (t = 0) to commands (t = 1) is regressed on that of straight paths (`ops.flow`). What
differs from the paper:

- The network learns what the velocity is beyond a(t) x, the best linear prediction for commands of unit variance (as in
  Karras et al. 2022). It is constant beyond the range of the data, so that the tails of the density are those of a
  normal distribution. Without this, a command of +50,000 could be as likely as one of +500.
- Times are drawn evenly over a batch, which makes the loss less noisy.
- Commands are smoothed by a little noise in training, which `sigma_min` then adds to.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.models.shields.density import DensityConfig, DensityShield
from worldline.ops.flow import even_times, interpolate, target_velocity

SIZES: dict[str, dict[str, Any]] = {
    "small": {"units": 128, "layers": 4},
    "base": {"units": 256, "layers": 4, "time_features": 128},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatchingShieldConfig(DensityConfig):
    """Settings of the flow-matching shield; the defaults are those of size small."""

    sigma_min: float = 1e-4  # deviation of a path's end around its command, normalised

    @staticmethod
    def bounds() -> dict[str, tuple[float, float]]:
        """Return the least and greatest value of each setting."""
        return {**DensityConfig.bounds(), "sigma_min": (0.0, 0.5)}


class FlowMatchingShield(DensityShield):
    """Flags commands whose density under a flow is low for their state."""

    family: ClassVar[str] = "flow_matching_shield"

    def __init__(self, config: FlowMatchingShieldConfig) -> None:
        super().__init__(config)
        self.sigma_min = config.sigma_min

    def _losses(self, states: Tensor, commands: Tensor) -> Tensor:
        """Return the squared error of the velocity, `[N]`, at a random time of a random path for each command."""
        noise = torch.randn_like(commands)
        ranks = torch.arange(len(commands), device=commands.device)
        t = ((torch.rand((), device=commands.device) + ranks) / len(commands)) % 1.0  # [N]
        x = interpolate(commands, noise, t, sigma_min=self.sigma_min)
        target = target_velocity(commands, noise, sigma_min=self.sigma_min)
        return (self._velocity(x, t, states) - target).square().mean(-1)

    def velocity(self, x: Tensor, t: Tensor, state: Obs) -> Tensor:
        """Return the velocity `[B, 2]` at points `x [B, 2]` of paths of normalised commands, at times `t [B]`."""
        return self._velocity(x, t, self._normalized_states(state))

    def times(self, num_steps: int) -> list[float]:
        """Return times from 0 to 1."""
        return even_times(num_steps)

    def drift(self, t: float) -> float:
        """Return a(t) = d/dt log(sigma_t), sigma_t the deviation of x_t for commands of unit variance."""
        start = 1 - (1 - self.sigma_min) * t
        return (t - (1 - self.sigma_min) * start) / (t * t + start * start)

    def _velocity(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        start = 1 - (1 - self.sigma_min) * t
        gain = (t - (1 - self.sigma_min) * start) / (t.square() + start.square())
        velocity: Tensor = self.net(x, t, states) + gain[:, None] * x
        return velocity
