"""Encoder and ensemble of values of TD-MPC2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.episode import is_channels_first
from worldline.models.tdmpc2.config import TDMPC2Config
from worldline.nn.normed import NormedLinear, NormedMLP
from worldline.ops.norm import simplicial_norm

_SIDE = 64  # pixels of the images that the published network sees
_CONVS = ((7, 2), (5, 2), (3, 2), (3, 1))  # (kernel, stride)
_GRID = 4  # what they leave of 64 pixels


class ImageNetwork(nn.Module):
    """Images to features: four convolutions with ReLU between them, over 64 x 64 pixels.

    Images of other sizes are resized. In training mode every image is shifted by up to `image_shift` pixels, the
    border repeated (Yarats et al. 2021).
    """

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__()
        self.names = list(config.images)
        self.first = {name: is_channels_first(shape) for name, shape in config.images.items()}
        channels = sum(shape[0] if self.first[name] else shape[2] for name, shape in config.images.items())
        width = config.image_channels
        self.convs = nn.ModuleList(
            nn.Conv2d(width if index else channels, width, kernel, stride)
            for index, (kernel, stride) in enumerate(_CONVS)
        )
        self.features = width * _GRID**2
        self.shift = config.image_shift

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Map images `[N, *obs]` to features `[N, F]`."""
        parts = [obs[name] if self.first[name] else obs[name].permute(0, 3, 1, 2) for name in self.names]
        x = torch.cat([part.float() / 255 if part.dtype == torch.uint8 else part.float() for part in parts], 1)
        if x.shape[-2:] != (_SIDE, _SIDE):
            x = F.interpolate(x, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        if self.training and self.shift:
            x = random_shift(x, torch.randint(2 * self.shift + 1, (2, len(x)), device=x.device) - self.shift)
        x = x - 0.5
        for index, conv in enumerate(self.convs):
            x = conv(F.relu(x) if index else x)
        return x.flatten(1).float()


def random_shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Shift `images [N, C, H, W]` by `offsets [2, N]` rows and columns, repeating the border."""
    num, channels, height, width = images.shape
    assert offsets.shape == (2, num), f"offsets {tuple(offsets.shape)} for images {tuple(images.shape)}"
    rows = (torch.arange(height, device=images.device) + offsets[0, :, None]).clamp_(0, height - 1)  # [N, H]
    columns = (torch.arange(width, device=images.device) + offsets[1, :, None]).clamp_(0, width - 1)  # [N, W]
    shifted = images.gather(2, rows[:, None, :, None].expand(num, channels, height, width))
    return shifted.gather(3, columns[:, None, None, :].expand(num, channels, height, width))


class Encoder(nn.Module):
    """Observations to latent states on simplices.

    Vectors go through an MLP and images through convolutions, as published. Images whose features are not as many as
    the latent state has, and vectors and images together (which the published encoder cannot take), are joined by one
    linear layer with layer norm.
    """

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__()
        self.vectors = list(config.vectors)
        self.simplex = config.simplex
        size = sum(config.vectors.values()) + config.embedding_dim
        self.image: ImageNetwork | None = None
        self.vector: NormedMLP | None = None
        self.hidden: NormedLinear | None = None
        self.join: NormedLinear | None = None
        if not config.images:
            self.vector = NormedMLP(
                size, config.encoder_units, config.encoder_layers, config.latent, simplex=config.simplex
            )
            return
        self.image = ImageNetwork(config)
        features = self.image.features
        if size:
            self.hidden = NormedLinear(size, config.encoder_units)
            features += config.encoder_units
        if features != config.latent or size:
            self.join = NormedLinear(features, config.latent, simplex=config.simplex)

    def forward(self, obs: dict[str, Tensor], embedding: Tensor | None) -> Tensor:
        """Return latent states `[N, L]` of observations with leaves `[N, *obs]` and `embedding [N, task]` or None."""
        parts = [obs[name].flatten(1).float() for name in self.vectors]
        if embedding is not None:
            parts.append(embedding)
        if self.image is None:
            assert self.vector is not None
            latent: Tensor = self.vector(torch.cat(parts, -1))
            return latent
        features = [self.image(obs)]
        if self.hidden is not None:
            features.append(self.hidden(torch.cat(parts, -1)))
        joined = torch.cat(features, -1)
        return simplicial_norm(joined, self.simplex) if self.join is None else self.join(joined)


class QEnsemble(nn.Module):
    """E networks from latent state and action to the logits of a two-hot value."""

    def __init__(self, config: TDMPC2Config) -> None:
        super().__init__()
        size = config.latent + config.action_dim + config.embedding_dim
        self.members = nn.ModuleList(
            NormedMLP(size, config.units, 3, config.num_bins, dropout=config.dropout, zero_output=True)
            for _ in range(config.num_q)
        )

    def forward(self, x: Tensor, *, which: Sequence[int] | None = None, frozen: bool = False) -> Tensor:
        """Map `x [..., D]` to logits `[E, ..., K]` of the members `which` (all by default).

        `frozen` keeps gradients from the parameters, not from `x`.
        """
        chosen = range(len(self.members)) if which is None else which
        return torch.stack([self.members[index](x, frozen=frozen) for index in chosen])
