"""Observations as one vector: what conditions a policy that is no transformer itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldline.models.inputs import Inputs, Layout
from worldline.nn.vision import ImageEncoder, SpatialSoftmax

_POINTS = 32  # features whose places in an image are reported, as in Chi et al. (2023)
_TEXT_FEATURES = 64
_NUM_BYTES = 256


class FeatureEncoder(nn.Module):
    """Vectors as they are; of images, where their features are; of text, which three-byte pieces it has.

    Args:
        layout: What is observed.
        num_obs: n, the steps that are observed together.
        image_widths: Channels of each level of the image network.
    """

    def __init__(self, layout: Layout, num_obs: int, image_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.images = self.points = self.text = None
        self.out_features = num_obs * layout.vector_size
        if layout.images:
            self.images = ImageEncoder(layout.image_shape[0], image_widths)
            self.points = SpatialSoftmax(self.images.out_channels, _POINTS)
            self.out_features += num_obs * self.points.out_features
        if layout.texts:
            self.text = TextEncoder(_TEXT_FEATURES)
            self.out_features += _TEXT_FEATURES

    def forward(self, inputs: Inputs) -> Tensor:
        """Return features `[B, out_features]`."""
        parts = []
        if inputs.vectors is not None:
            parts.append(inputs.vectors.flatten(1))
        if self.images is not None and self.points is not None and inputs.images is not None:
            batch, steps = inputs.images.shape[:2]
            points = self.points(self.images(inputs.images.flatten(0, 1)))  # [B * n, 2 * points]
            parts.append(points.view(batch, steps * points.shape[1]))
        if self.text is not None and inputs.text is not None:
            parts.append(self.text(inputs.text))
        return torch.cat(parts, 1)


class TextEncoder(nn.Module):
    """A bag of what a convolution over three bytes finds: enough for instructions of a few words."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(_NUM_BYTES, features)
        self.pieces = nn.Conv1d(features, features, 3, padding=1)
        self.output = nn.Linear(features, features)

    def forward(self, text: Tensor) -> Tensor:
        """Map bytes `[B, L]`, 0 for padding, to `[B, D]`."""
        found = nn.functional.silu(self.pieces(self.embed(text).transpose(1, 2)))  # [B, D, L]
        real = (text > 0)[:, None]
        mean = found.masked_fill(~real, 0.0).sum(2) / real.sum(2).clamp(min=1)
        features: Tensor = self.output(mean)
        return features
