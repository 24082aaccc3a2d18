"""A small vision-language-action policy: patches of images, bytes of an instruction and numbers in one transformer.

The scheme of Octo (Octo Model Team: "Octo: An Open-Source Generalist Robot Policy", RSS 2024): all observations become
tokens, a read-out token gathers what matters for acting, and a head of choice makes a chunk of actions of it: one
regressed, one denoised or one carried by a flow. The instruction also modulates what is seen in the images, as in RT-1
(Brohan et al.: "RT-1: Robotics Transformer for Real-World Control at Scale", RSS 2023). Everything is learnt from the
demonstrations; nothing is pretrained, so that instructions are the words of the data and no others.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.act import check_transformer
from worldline.models.chunks import ChunkPolicy
from worldline.models.denoiser import Denoiser, DenoisingConfig
from worldline.models.heads import DiffusionHead, FlowHead, Head, RegressionHead
from worldline.models.inputs import Inputs
from worldline.models.tokens import TokenEncoder
from worldline.nn.transformer import Transformer

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"size": 32, "heads": 4, "layers": 1, "units": 64, "mlp_units": 64, "mlp_blocks": 1},
    "small": {"size": 128, "heads": 4, "layers": 4, "units": 512},
    "base": {"size": 384, "heads": 6, "layers": 12, "units": 1536, "mlp_units": 1024},
}

_NUM_LEVELS, _DIFFUSION_STEPS, _FLOW_STEPS = 100, 10, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class VLAConfig(DenoisingConfig):
    """Settings of the vision-language-action policy; the defaults are those of size small."""

    num_obs: int = 1
    size: int = 128  # D of a token
    heads: int = 4
    layers: int = 4
    units: int = 512  # of the networks of the transformer, and of the regression head
    dropout: float = 0.0
    head: Literal["regression", "diffusion", "flow"] = "flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self.size, self.heads, self.layers, self.units)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1); got {self.dropout}.")


class VLA(ChunkPolicy):
    """Chunks of actions from images, instructions and numbers."""

    family: ClassVar[str] = "vla"

    def __init__(self, config: VLAConfig) -> None:
        super().__init__(config, kind="range")
        self.config: VLAConfig = config
        self.tokens = TokenEncoder(self.inputs.layout, config.num_obs, config.size, config.image_widths)
        self.readout = nn.Parameter(torch.randn(1, config.size))
        self.transformer = Transformer(
            config.size, config.layers, config.heads, units=config.units, dropout=config.dropout
        )
        self.head = make_head(config)

    def chunk_loss(self, inputs: Inputs, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return "loss", that of the head."""
        return {"loss": self.head.loss(self._features(inputs), actions, mask)}

    def chunk(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Return actions `[N, H, A]` in [-1, 1]."""
        return self.head.sample(self._features(inputs), noise)

    def _features(self, inputs: Inputs) -> Tensor:
        """Return what the read-out token has gathered, `[B, D]`."""
        tokens, mask = self.tokens(inputs)
        sequence = torch.cat([self.readout.expand(len(tokens), -1, -1), tokens], 1)
        seen = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        features: Tensor = self.transformer(sequence, seen)[:, 0]
        return features


def make_head(config: VLAConfig) -> Head:
    """Return the head that `config.head` names."""
    if config.head == "regression":
        return RegressionHead(config.size, config.horizon, config.action_dim, units=config.units)
    if config.head == "diffusion":
        denoiser = Denoiser(config, config.size, scale=1000 / _NUM_LEVELS)
        return DiffusionHead(denoiser, num_levels=_NUM_LEVELS, num_steps=_DIFFUSION_STEPS, prediction="velocity")
    denoiser = Denoiser(config, config.size, scale=1000.0)
    return FlowHead(denoiser, num_steps=_FLOW_STEPS, solver="midpoint")
