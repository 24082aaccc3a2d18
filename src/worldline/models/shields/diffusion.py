"""A shield by denoising diffusion (Ho, Jain & Abbeel: "Denoising Diffusion Probabilistic Models", NeurIPS 2020).

The likelihood is that of the probability-flow equation (Song et al. 2021), which is deterministic. In terms of the
angle phi of a noise level, with cos(phi) = sqrt(abar), noised commands are x = cos(phi) x_0 + sin(phi) eps, and

    dx/dphi = cos(phi) eps - sin(phi) x_0 = v

so a network that predicts v (Salimans & Ho 2022) is the velocity of that equation, and angles are its time. The network
is asked at angles between those of the levels, too: it sees the angle and not the number of a level. Its output is
constant beyond the range of the data: there, the density is that of a normal distribution.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldline.batch import Obs
from worldline.models.shields.density import DensityConfig, DensityShield
from worldline.ops.diffusion import BetaSchedule, add_noise, cumulative_alphas, make_betas, velocity, x0_from_velocity
from worldline.ops.flow import even_times

SIZES: dict[str, dict[str, Any]] = {
    "small": {"units": 128, "layers": 4},
    "base": {"units": 256, "layers": 4, "time_features": 128},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionShieldConfig(DensityConfig):
    """Settings of the diffusion shield; the defaults are those of size small."""

    num_levels: int = 1000  # K, of noise
    schedule: BetaSchedule = "linear"

    @staticmethod
    def bounds() -> dict[str, tuple[float, float]]:
        """Return the least and greatest value of each setting."""
        return {**DensityConfig.bounds(), "num_levels": (2, 1 << 16)}


class DiffusionShield(DensityShield):
    """Flags commands whose density under a diffusion model is low for their state."""

    family: ClassVar[str] = "diffusion_shield"

    def __init__(self, config: DiffusionShieldConfig) -> None:
        super().__init__(config)
        levels = cumulative_alphas(make_betas(config.schedule, config.num_levels).double())
        self.register_buffer("alphas_bar", levels.float(), persistent=False)  # [K]
        self.register_buffer("angles", levels.sqrt().acos().float(), persistent=False)  # [K], rising
        self.alphas_bar: Tensor
        self.angles: Tensor
        self._ends = _end_angles(config.schedule, config.num_levels)

    def _losses(self, states: Tensor, commands: Tensor) -> Tensor:
        """Return the squared error of v, `[N]`, at a random level for each command."""
        noise = torch.randn_like(commands)
        level = torch.randint(len(self.alphas_bar), (len(commands),), device=commands.device)
        alpha_bar = self.alphas_bar[level]
        x = add_noise(commands, noise, alpha_bar)
        predicted: Tensor = self.net(x, self.angles[level], states)
        return (predicted - velocity(commands, noise, alpha_bar)).square().mean(-1)

    @torch.no_grad()
    def denoise(self, x: Tensor, level: Tensor, state: Obs) -> Tensor:
        """Return the normalised commands `[B, 2]` that noised ones `x [B, 2]` at levels `[B]` are expected to be."""
        predicted = self.net(x, self.angles[level], self._normalized_states(state))
        return x0_from_velocity(x, predicted, self.alphas_bar[level])

    def times(self, num_steps: int) -> list[float]:
        """Return angles from that of the last level to that of the first."""
        first, last = self._ends
        return even_times(num_steps, start=last, end=first)

    def drift(self, t: float) -> float:
        """Return 0: noised commands have unit variance at all angles, so no part of v follows from x alone."""
        return 0.0


def _end_angles(schedule: BetaSchedule, num_levels: int) -> tuple[float, float]:
    """Return the angles of the first and the last level; on the CPU, also where a model without memory is built."""
    with torch.device("cpu"):
        levels = cumulative_alphas(make_betas(schedule, num_levels).double())
        first, last = levels[[0, -1]].sqrt().acos().tolist()
    return first, last
