"""Diffusion policy (Chi et al.: "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", RSS 2023).

A chunk of actions is what is left of noise once a network has removed it, given the last observations: so a policy can
have several ways to go on, and take one of them for the whole chunk. Implemented is the convolutional variant:

- training: the squared error of the noise, or of v, at a random one of K = 100 levels of the squared-cosine schedule
- acting: DDIM in 10 steps; 8 of the 16 actions are carried out before the next chunk is made
- the published results are those of averaged weights: train with `ema_decay`

Deviations: sizes other than `paper` are smaller and predict v, which needs less training (on pick-and-place, after
4,000 steps, 96% of episodes succeeded where predicting the noise had 31%); SiLU for Mish; images pass a small network
of ours with a spatial softmax, and are moved at random rather than cropped; what is beyond an episode weighs nothing
(see `chunks`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from torch import Tensor

from worldline.errors import ConfigError
from worldline.models.chunks import ChunkPolicy
from worldline.models.denoiser import DENOISER_SIZES, Denoiser, DenoisingConfig
from worldline.models.features import FeatureEncoder
from worldline.models.heads import DiffusionHead
from worldline.models.inputs import Inputs

SIZES: dict[str, dict[str, Any]] = {**DENOISER_SIZES, "paper": {**DENOISER_SIZES["paper"], "prediction": "noise"}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionPolicyConfig(DenoisingConfig):
    """Settings of diffusion policy; the defaults are those of size small."""

    num_levels: int = 100  # K, of noise
    num_steps: int = 10  # of sampling
    prediction: Literal["noise", "velocity"] = "velocity"  # what the network learns to say; see `heads.DiffusionHead`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction not in ("noise", "velocity"):
            raise ConfigError(f"prediction must be 'noise' or 'velocity'; got {self.prediction!r}.")
        if not 1 <= self.num_steps <= self.num_levels <= 10_000:
            raise ConfigError(
                f"num_steps must be between 1 and num_levels, which is at most 10000; got {self.num_steps} and "
                f"{self.num_levels}."
            )


class DiffusionPolicy(ChunkPolicy):
    """Chunks of actions by denoising."""

    family: ClassVar[str] = "diffusion_policy"

    def __init__(self, config: DiffusionPolicyConfig) -> None:
        super().__init__(config, kind="range")
        self.encoder = FeatureEncoder(self.inputs.layout, config.num_obs, config.image_widths)
        denoiser = Denoiser(config, self.encoder.out_features, scale=1000 / config.num_levels)
        self.head = DiffusionHead(
            denoiser, num_levels=config.num_levels, num_steps=config.num_steps, prediction=config.prediction
        )

    def chunk_loss(self, inputs: Inputs, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return "loss", the mean squared error of what the network says."""
        return {"loss": self.head.loss(self.encoder(inputs), actions, mask)}

    def chunk(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Return actions `[N, H, A]` in [-1, 1]."""
        return self.head.sample(self.encoder(inputs), noise)
