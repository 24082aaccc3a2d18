"""Flow policy: chunks of actions by flow matching (Lipman et al.: "Flow Matching for Generative Modeling", ICLR 2023).

All is as in `diffusion_policy`, the network included, but for what is learnt and how it is sampled: the velocity of the
straight lines between noise and chunks, followed in few steps, as in pi-0 (Black et al. 2024), but with uniform times.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from torch import Tensor

from worldline.errors import ConfigError
from worldline.models.chunks import ChunkPolicy
from worldline.models.denoiser import DENOISER_SIZES, Denoiser, DenoisingConfig
from worldline.models.features import FeatureEncoder
from worldline.models.heads import FlowHead
from worldline.models.inputs import Inputs

SIZES = DENOISER_SIZES


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowPolicyConfig(DenoisingConfig):
    """Settings of flow policy; the defaults are those of size small."""

    num_steps: int = 5  # of the solver
    solver: Literal["euler", "midpoint", "rk4"] = "midpoint"  # it asks the network 1, 2 or 4 times a step

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_steps <= 1000:
            raise ConfigError(f"num_steps must be between 1 and 1000; got {self.num_steps}.")


class FlowPolicy(ChunkPolicy):
    """Chunks of actions by a flow."""

    family: ClassVar[str] = "flow_policy"

    def __init__(self, config: FlowPolicyConfig) -> None:
        super().__init__(config, kind="range")
        self.encoder = FeatureEncoder(self.inputs.layout, config.num_obs, config.image_widths)
        denoiser = Denoiser(config, self.encoder.out_features, scale=1000.0)
        self.head = FlowHead(denoiser, num_steps=config.num_steps, solver=config.solver)

    def chunk_loss(self, inputs: Inputs, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return "loss", the mean squared error of the velocity."""
        return {"loss": self.head.loss(self.encoder(inputs), actions, mask)}

    def chunk(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Return actions `[N, H, A]` in [-1, 1]."""
        return self.head.sample(self.encoder(inputs), noise)
