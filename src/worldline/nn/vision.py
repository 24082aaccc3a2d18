"""Networks that look at images: convolutions with group norm, which does not mind what else is in a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_GROUPS = 8


class ImageEncoder(nn.Module):
    """A small convolutional network; each level halves the image.

    Args:
        channels: Of an image.
        widths: Channels of each level; multiples of 8.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        before = (channels, *widths[:-1])
        self.levels = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GroupNorm(_GROUPS, outer), nn.SiLU(inplace=True)
                )
                for inner, outer in zip(before, widths, strict=True)
            )
        )
        self.out_channels = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, C, H, W]` in [-1, 1] to a map of features `[B, D, h, w]`."""
        features: Tensor = self.levels(images)
        return features


class SpatialSoftmax(nn.Module):
    """Where each of some features is most: the expected coordinates of a softmax over the map (Finn et al. 2016).

    Args:
        channels: Of the map.
        points: How many features; each gives two coordinates in [-1, 1].
    """

    def __init__(self, channels: int, points: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, points, 1)
        self.out_features = 2 * points

    def forward(self, features: Tensor) -> Tensor:
        """Map `[B, C, h, w]` to `[B, 2 * points]`."""
        scores: Tensor = self.project(features).float()
        height, width = scores.shape[-2:]
        probs = scores.flatten(2).softmax(-1).view_as(scores)
        rows = torch.linspace(-1, 1, height, device=scores.device)
        columns = torch.linspace(-1, 1, width, device=scores.device)
        # No matrix products: autocast would round the coordinates to a pixel.
        return torch.cat([(probs.sum(3) * rows).sum(-1), (probs.sum(2) * columns).sum(-1)], -1)
