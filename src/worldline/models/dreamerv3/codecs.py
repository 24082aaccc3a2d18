"""Encoder and decoder for vectors, images and both together.

Images are `[..., H, W, C]` (as Gymnasium has them) or `[..., C, H, W]`, uint8 or float in [0, 1], of any size: they are
padded to what the pooling stages need by repeating the border, and reconstructions are cropped.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.episode import is_channels_first
from worldline.models.dreamerv3.config import DreamerV3Config
from worldline.models.observations import image_size
from worldline.nn.layers import MLP, BlockLinear, Dense, Linear, NormSiLU, truncated_normal_
from worldline.ops.twohot import symexp, symlog

_MULTIPLIERS = (2, 3, 4, 4)  # of the base depth, for each halving of the image; the last one repeats
_KERNEL = 5


class ImageLayout:
    """How the images of a data set are joined along channels, padded and pooled."""

    def __init__(self, images: dict[str, tuple[int, ...]]) -> None:
        self.first = {name: is_channels_first(shape) for name, shape in images.items()}
        self.channels = {name: shape[0] if self.first[name] else shape[2] for name, shape in images.items()}
        self.height, self.width = image_size(next(iter(images.values())))
        # As the reference: 4 halvings of a 64 x 64 image; fewer or more keep the smallest map within 3 to 16.
        self.stages = next(s for s in range(1, 32) if math.ceil(max(self.height, self.width) / 2**s) <= 6 or s == 31)
        while self.stages > 1 and math.ceil(min(self.height, self.width) / 2**self.stages) < 3:
            self.stages -= 1
        factor = 2**self.stages
        self.rows, self.columns = math.ceil(self.height / factor), math.ceil(self.width / factor)
        self.padding = (0, self.columns * factor - self.width, 0, self.rows * factor - self.height)

    def depths(self, depth: int) -> list[int]:
        """Return the channels after each halving."""
        return [depth * _MULTIPLIERS[min(stage, len(_MULTIPLIERS) - 1)] for stage in range(self.stages)]

    def channels_first(self, name: str, image: Tensor) -> Tensor:
        """Return an image `[..., H, W, C]` or `[..., C, H, W]` as `[N, C, H, W]`."""
        image = image.flatten(0, -4)
        return image if self.first[name] else image.permute(0, 3, 1, 2)


class Conv(nn.Module):
    """A 5 x 5 convolution that keeps the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        weight = torch.empty(out_channels, in_channels, _KERNEL, _KERNEL)
        self.weight = nn.Parameter(truncated_normal_(weight, in_channels * _KERNEL**2))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, I, H, W]` to `[N, O, H, W]`."""
        return F.conv2d(x, self.weight, self.bias, padding=_KERNEL // 2)


class ChannelNorm(NormSiLU):
    """RMSNorm over the channels of an image, then SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[N, C, H, W]` over C."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """Observations to tokens: an MLP for all vectors together, a CNN for all images together."""

    def __init__(self, config: DreamerV3Config) -> None:
        super().__init__()
        self.vectors, self.images = list(config.vectors), list(config.images)
        self.token_dim = 0
        if self.vectors:
            self.mlp = MLP(sum(config.vectors.values()), config.units, config.encoder_layers)
            self.token_dim += config.units
        if self.images:
            self.layout = ImageLayout(config.images)
            depths = self.layout.depths(config.depth)
            channels = [sum(self.layout.channels.values()), *depths]
            self.convs = nn.ModuleList(Conv(*pair) for pair in itertools.pairwise(channels))
            self.norms = nn.ModuleList(ChannelNorm(depth) for depth in depths)
            self.token_dim += self.layout.rows * self.layout.columns * depths[-1]

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Return tokens `[N, E]` of observations with leaves `[N, *obs]`."""
        tokens = []
        if self.vectors:
            tokens.append(self.mlp(symlog(torch.cat([obs[name].flatten(1).float() for name in self.vectors], 1))))
        if self.images:
            tokens.append(self._encode_images(obs))
        return torch.cat(tokens, -1)

    def _encode_images(self, obs: dict[str, Tensor]) -> Tensor:
        images = [scale_image(self.layout.channels_first(name, obs[name])) for name in self.images]
        x = torch.cat(images, 1) - 0.5
        if any(self.layout.padding):
            x = F.pad(x, self.layout.padding, mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(F.max_pool2d(conv(x), 2))
        return x.permute(0, 2, 3, 1).flatten(1).float()


def scale_image(image: Tensor) -> Tensor:
    """Return an image as float in [0, 1]: uint8 is divided by 255, float is taken as it is."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


class Decoder(nn.Module):
    """Latent states to observations."""

    def __init__(self, config: DreamerV3Config) -> None:
        super().__init__()
        self.shapes = config.obs_shapes
        self.vectors, self.images = config.vectors, list(config.images)
        latent = config.stoch * config.classes
        self.deter = config.deter
        if self.vectors:
            self.mlp = MLP(config.deter + latent, config.units, config.decoder_layers)
            # A list: a name may be what a module cannot be called, such as "type" or "a.b".
            self.outputs = nn.ModuleList(Linear(config.units, size) for size in self.vectors.values())
        if self.images:
            self.layout = ImageLayout(config.images)
            depths = self.layout.depths(config.depth)
            size = self.layout.rows * self.layout.columns * depths[-1]
            # A block makes a share of the channels. Small images and depths may have too few for all blocks.
            self.blocks = math.gcd(config.blocks, depths[-1])
            self.from_deter = BlockLinear(config.deter, size, self.blocks)
            self.from_stoch = nn.Sequential(Dense(latent, 2 * config.units), Linear(2 * config.units, size))
            self.space_norm = ChannelNorm(depths[-1])
            # Each stage doubles the size: depths[-1] -> ... -> depths[0] -> the image.
            inner = depths[::-1]
            self.convs = nn.ModuleList(Conv(*pair) for pair in itertools.pairwise(inner))
            self.norms = nn.ModuleList(ChannelNorm(depth) for depth in inner[1:])
            self.image_out = Conv(depths[0], sum(self.layout.channels.values()))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return reconstructions of `features [N, D + S * K]`: vectors `[N, *obs]` after symlog, images in [0, 1]."""
        deter, stoch = features[:, : self.deter], features[:, self.deter :]
        result = {}
        if self.vectors:
            # The reference puts stoch first here, and deter first everywhere else.
            hidden = self.mlp(torch.cat([stoch, deter], -1))
            for name, output in zip(self.vectors, self.outputs, strict=True):
                result[name] = output(hidden).float().unflatten(-1, self.shapes[name])
        if self.images:
            result.update(self._decode_images(deter, stoch))
        return {name: result[name] for name in self.shapes}

    def _decode_images(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        layout = self.layout
        grid = (layout.rows, layout.columns)
        from_deter = self.from_deter(deter).unflatten(-1, (self.blocks, *grid, -1))  # [N, G, h, w, C / G]
        from_deter = from_deter.permute(0, 1, 4, 2, 3).flatten(1, 2)
        from_stoch = self.from_stoch(stoch).unflatten(-1, (*grid, -1)).permute(0, 3, 1, 2)
        x = self.space_norm(from_deter + from_stoch).contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(F.interpolate(x, scale_factor=2, mode="nearest")))
        x = torch.sigmoid(self.image_out(F.interpolate(x, scale_factor=2, mode="nearest")).float())
        x = x[:, :, : layout.height, : layout.width]
        parts = x.split([layout.channels[name] for name in self.images], 1)
        return {
            name: part if layout.first[name] else part.permute(0, 2, 3, 1)
            for name, part in zip(self.images, parts, strict=True)
        }

    def losses(self, features: Tensor, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of every observation, summed over its dimensions: name -> `[N]`.

        Vectors are compared after symlog, images in [0, 1].
        """
        result = {}
        for name, prediction in self(features).items():
            target = symlog(obs[name].float()) if name in self.vectors else scale_image(obs[name])
            result[name] = (prediction - target).square().flatten(1).sum(1)
        return result

    def decode(self, features: Tensor) -> dict[str, Tensor]:
        """Return observations in their own units for `features [N, D + S * K]`: images in [0, 1]."""
        return {name: symexp(x) if name in self.vectors else x for name, x in self(features).items()}
