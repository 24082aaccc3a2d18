"""Action chunking with transformers (Zhao, Kumar, Levine & Finn, RSS 2023).

After "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware". A transformer predicts H actions at once.
People do one thing in several ways: while training, an encoder sees the actions as well, and says in a small latent z
which way it was; without it z is its mean, 0 (a conditional VAE):

    loss = |actions - predicted| + beta KL(q(z | actions, state) || N(0, I)),   summed over z, a mean over all else

Each step makes a chunk, and the action taken is the mean of those that all chunks planned for it, with the published
weights exp(-m i) (see `execution`); `ensemble_rate=None` carries out `num_executed` of a chunk instead.

Deviations: layers are normalised before each part, not behind it; one decoder layer, which is what the published code
of seven uses; activations are GELU; images pass a small network of ours, not a pretrained ResNet; size `paper` has the
published widths, and H = 100 at 50 steps a second.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.chunks import ChunkConfig, ChunkPolicy, mean_over_actions
from worldline.models.inputs import Inputs
from worldline.models.tokens import TokenEncoder
from worldline.nn.transformer import Positions, Transformer

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"size": 32, "heads": 4, "layers": 1, "units": 64},
    "small": {"size": 128, "heads": 4, "layers": 3, "units": 512},
    "paper": {"size": 512, "heads": 8, "layers": 4, "units": 3200, "horizon": 100, "num_executed": 100},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ACTConfig(ChunkConfig):
    """Settings of ACT; the defaults are those of size small."""

    num_obs: int = 1
    ensemble_rate: float | None = 0.01
    size: int = 128  # D of a token
    heads: int = 4
    layers: int = 3  # of each of the two encoders
    units: int = 512  # of the networks in them
    latent: int = 32  # numbers of z
    kl_scale: float = 10.0  # beta
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformer(self.size, self.heads, self.layers, self.units)
        if not 1 <= self.latent <= 4096 or not 0 <= self.dropout < 1 or not 0 <= self.kl_scale < 1e6:
            raise ConfigError(
                "latent must be at least 1, dropout in [0, 1) and kl_scale at least 0; got "
                f"{self.latent}, {self.dropout} and {self.kl_scale}."
            )


def check_transformer(size: int, heads: int, layers: int, units: int) -> None:
    """Check the sizes of a transformer.

    Raises:
        ConfigError: One is out of range, or `heads` does not divide `size`.
    """
    for name, value in (("size", size), ("heads", heads), ("layers", layers), ("units", units)):
        if not 1 <= value <= 1 << 16:
            raise ConfigError(f"{name} must be between 1 and 65536; got {value}.")
    if size % heads:
        raise ConfigError(f"size must be a multiple of heads={heads}; got {size}.")


class ACT(ChunkPolicy):
    """Chunks of actions by a transformer."""

    family: ClassVar[str] = "act"

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config, kind="standard")
        self.config: ACTConfig = config
        size = config.size
        sizes: dict[str, Any] = {"heads": config.heads, "units": config.units, "dropout": config.dropout}
        layout = self.inputs.layout
        self.tokens = TokenEncoder(layout, config.num_obs, size, config.image_widths)
        self.latent_token = nn.Linear(config.latent, size)
        self.encoder = Transformer(size, config.layers, **sizes)
        self.queries = nn.Parameter(torch.randn(config.horizon, size))
        self.decoder = Transformer(size, 1, **sizes, has_context=True)
        self.output = nn.Linear(size, config.action_dim)
        # The encoder of the way in which the actions were taken: a summary, the state if there is one, the actions
        has_state = bool(layout.vector_size)
        self.way_state = nn.Linear(layout.vector_size, size) if has_state else None
        self.way_actions = nn.Linear(config.action_dim, size)
        self.way_positions = Positions(config.horizon + 1 + has_state, size)
        self.way_encoder = Transformer(size, config.layers, **sizes)
        self.way_output = nn.Linear(size, 2 * config.latent)

    def chunk_loss(self, inputs: Inputs, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return "loss", "absolute_error" of the normalised actions, and "kl" in nats."""
        mean, log_std = self._way(inputs, actions, mask)
        z = mean + log_std.exp() * torch.randn_like(mean)
        error = mean_over_actions((self._decode(inputs, z) - actions).abs(), mask)
        kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1).mean()
        return {"loss": error + self.config.kl_scale * kl, "absolute_error": error.detach(), "kl": kl.detach()}

    def chunk(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Return actions `[N, H, A]` for z = 0; the noise is not used."""
        return self._decode(inputs, noise.new_zeros(len(noise), self.config.latent))

    def _way(self, inputs: Inputs, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the deviation of z, each `[B, latent]`, float32."""
        tokens = self.way_actions(actions)  # [B, H, D]
        head = [torch.zeros_like(tokens[:, :1])]
        if self.way_state is not None and inputs.vectors is not None:
            head.append(self.way_state(inputs.vectors[:, -1:]))
        sequence = self.way_positions(torch.cat([*head, tokens], 1))
        seen = torch.cat([torch.ones_like(mask[:, : len(head)]), mask], 1)
        summary = self.way_output(self.way_encoder(sequence, seen)[:, 0]).float()
        mean, log_std = summary.chunk(2, -1)
        return mean, log_std

    def _decode(self, inputs: Inputs, z: Tensor) -> Tensor:
        """Return normalised actions `[B, H, A]`, float32."""
        tokens, mask = self.tokens(inputs)
        sequence = torch.cat([self.latent_token(z)[:, None], tokens], 1)
        seen = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        memory = self.encoder(sequence, seen)
        chunk = self.decoder(self.queries.expand(len(z), -1, -1), seen, memory)
        actions: Tensor = self.output(chunk).float()
        return actions
