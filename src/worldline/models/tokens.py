"""Observations as a sequence of tokens: what a transformer reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.models.inputs import Inputs, Layout
from worldline.nn.transformer import Positions
from worldline.nn.vision import ImageEncoder, SpatialSoftmax

_NUM_POINTS = 32
_POOLED = 2  # places of the map of features, each way, that a patch is the mean of


class TokenEncoder(nn.Module):
    """Tokens for the numbers and the images of each step, and for an instruction.

    A step's numbers are one token. Its images are one for each patch, and one for where some features are most: an
    arm is moved by places, and attention over patches takes far longer to learn them from actions. The instruction
    modulates the features (as in RT-1, Brohan et al. 2022), so that the places can be those of what it names.

    Args:
        layout: What is observed.
        num_obs: n, the steps that are observed together.
        size: D of a token.
        image_widths: Channels of each level of the image network; each halves the image.
    """

    def __init__(self, layout: Layout, num_obs: int, size: int, image_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.vectors = self.images = self.text = None
        if layout.vector_size:
            self.vectors = nn.Linear(layout.vector_size, size)
            self.vector_positions = Positions(num_obs, size)
        if layout.images:
            self.images = ImageTokens(layout.image_shape, num_obs, size, image_widths, has_text=bool(layout.texts))
        if layout.texts:
            self.text = TextTokens(layout.text_length, size)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return tokens `[B, S, D]`, and which of them are real, `[B, S]` bool."""
        tokens, masks = [], []
        instruction = None
        if self.text is not None and inputs.text is not None:
            words, is_real, instruction = self.text(inputs.text)
            tokens.append(words)
            masks.append(is_real)
        if self.images is not None and inputs.images is not None:
            tokens.append(self.images(inputs.images, instruction))
        if self.vectors is not None and inputs.vectors is not None:
            tokens.append(self.vector_positions(self.vectors(inputs.vectors)))
        masks += [value.new_ones(value.shape[:2], dtype=torch.bool) for value in tokens[len(masks) :]]
        return torch.cat(tokens, 1), torch.cat(masks, 1)


class TextTokens(nn.Module):
    """Bytes, each read with four on either side, and of every few of them the most: so that words need not be spelt.

    Args:
        length: L, of bytes.
        size: D of a token.
    """

    kernel, stride = 5, 4

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, size, padding_idx=0)
        self.first = nn.Conv1d(size, size, self.kernel, padding=self.kernel // 2)
        self.second = nn.Conv1d(size, size, self.kernel, padding=self.kernel // 2)
        self.positions = Positions(-(-length // self.stride), size)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map bytes `[B, L]` to tokens `[B, S, D]`, which of them are real `[B, S]`, and all in one vector `[B, D]`."""
        is_real = (text > 0).unsqueeze(1)  # [B, 1, L]
        hidden = F.gelu(self.first(self.bytes(text).transpose(1, 2))) * is_real
        hidden = F.relu(self.second(hidden)) * is_real  # [B, D, L]; padding is the least there can be
        tokens = F.max_pool1d(hidden, self.stride, ceil_mode=True)
        seen = F.max_pool1d(is_real.float(), self.stride, ceil_mode=True)[:, 0] > 0
        return self.positions(tokens.transpose(1, 2)), seen, hidden.amax(-1)


class ImageTokens(nn.Module):
    """Patches, which a small convolutional network makes, and one token for the places of its features.

    Args:
        shape: (C, H, W) of an image.
        num_obs: n, images that are seen together.
        size: D of a token.
        widths: Channels of each level of the network.
        has_text: Whether there is an instruction.
    """

    def __init__(
        self, shape: tuple[int, int, int], num_obs: int, size: int, widths: tuple[int, ...], *, has_text: bool
    ) -> None:
        super().__init__()
        channels, height, width = shape
        for _ in widths:
            height, width = -(-height // 2), -(-width // 2)
        self.features = nn.Sequential(ImageEncoder(channels, widths), nn.Conv2d(widths[-1], size, 1))
        self.modulation = (
            nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 2 * size)) if has_text else None
        )
        self.points = SpatialSoftmax(size, _NUM_POINTS)
        self.places = nn.Linear(self.points.out_features, size)
        self.patches = nn.AvgPool2d(_POOLED, ceil_mode=True)
        num_tokens = 1 + -(-height // _POOLED) * -(-width // _POOLED)
        self.positions = Positions(num_obs * num_tokens, size)

    def forward(self, images: Tensor, instruction: Tensor | None) -> Tensor:
        """Map `[B, n, C, H, W]` and perhaps an instruction `[B, D]` to tokens `[B, S, D]`."""
        batch, steps = images.shape[:2]
        maps = self.features(images.flatten(0, 1))  # [B * n, D, h, w]
        if self.modulation is not None and instruction is not None:
            scale, shift = self.modulation(instruction).repeat_interleave(steps, 0)[..., None, None].chunk(2, 1)
            maps = torch.addcmul(shift, maps, scale + 1)
        maps = F.gelu(maps)
        places = self.places(self.points(maps))[:, None]
        patches = self.patches(maps).flatten(2).transpose(1, 2)
        tokens = torch.cat([places, patches], 1)
        result: Tensor = self.positions(tokens.reshape(batch, steps * tokens.shape[1], -1))
        return result
