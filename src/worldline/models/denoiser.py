"""The network that makes chunks of actions from noise, for every policy that does."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor, nn

from worldline.config import check_bounds
from worldline.errors import ConfigError
from worldline.models.chunks import ChunkConfig
from worldline.nn.residual import ConditionalMLP
from worldline.nn.time_embedding import TimeEmbedding
from worldline.nn.unet1d import ConditionalUNet1d

DENOISER_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"mlp_units": 64, "mlp_blocks": 1},
    "small": {},
    "unet": {"network": "unet"},
    "paper": {"network": "unet", "unet_widths": (256, 512, 1024)},
}

_TIME_FEATURES = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingConfig(ChunkConfig):
    """Settings of policies that make a chunk from noise."""

    network: Literal["mlp", "unet"] = "mlp"  # what removes the noise; the published policy has a U-Net
    mlp_units: int = 512
    mlp_blocks: int = 3
    unet_widths: tuple[int, ...] = (64, 128, 256)  # channels of its levels; the horizon is halved between them

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, {"mlp_units": (8, 1 << 16), "mlp_blocks": (1, 64)})
        if not self.unet_widths or any(width < 8 or width % 8 for width in self.unet_widths):
            raise ConfigError(f"unet_widths must be multiples of 8, such as (64, 128, 256); got {self.unet_widths}.")
        stride = 2 ** (len(self.unet_widths) - 1)
        if self.network == "unet" and self.horizon % stride:
            raise ConfigError(
                f"horizon must be a multiple of {stride} with a U-Net of {len(self.unet_widths)} levels; got "
                f"{self.horizon}."
            )


class Denoiser(nn.Module):
    """A network over a chunk, conditioned on time and features.

    Args:
        config: Which network.
        features: D.
        scale: Of times, so that all of them span about 1,000.
    """

    def __init__(self, config: DenoisingConfig, features: int, *, scale: float) -> None:
        super().__init__()
        self.time = nn.Sequential(
            TimeEmbedding(_TIME_FEATURES, scale=scale),
            nn.Linear(_TIME_FEATURES, 2 * _TIME_FEATURES),
            nn.SiLU(),
            nn.Linear(2 * _TIME_FEATURES, _TIME_FEATURES),
        )
        condition = _TIME_FEATURES + features
        self.net: ConditionalMLP | ConditionalUNet1d
        if config.network == "unet":
            self.net = ConditionalUNet1d(config.action_dim, condition, config.unet_widths)
        else:
            self.net = ConditionalMLP(
                config.horizon, config.action_dim, condition, units=config.mlp_units, blocks=config.mlp_blocks
            )

    def forward(self, x: Tensor, time: Tensor, features: Tensor) -> Tensor:
        """Map `x [B, H, A]` at `time [B]` with `features [B, D]` to `[B, H, A]`, float32."""
        result: Tensor = self.net(x, torch.cat([self.time(time), features], -1)).float()
        return result
