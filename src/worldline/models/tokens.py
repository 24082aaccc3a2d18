"""Observations as a sequence of tokens: what a transformer reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldline.models.inputs import Inputs, Layout
from worldline.nn.transformer import Positions
from worldline.nn.vision import ImageEncoder

_NUM_BYTES = 256
_PIECE = 5  # bytes that are read together


class TokenEncoder(nn.Module):
    """One token for the numbers of each step, one for each patch of an image, one for each byte of text.

    Patches are what a small convolutional network makes of them, which learns from fewer images than a linear layer
    (Xiao et al.: "Early Convolutions Help Transformers See Better", 2021). A byte comes with its neighbours, so that
    words need not be spelt by attention.

    Args:
        layout: What is observed.
        num_obs: n, the steps that are observed together.
        size: D of a token.
        image_widths: Channels of each level of the image network; each halves the image.
    """

    def __init__(self, layout: Layout, num_obs: int, size: int, image_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layout = layout
        self.images = self.patch_positions = self.bytes = None
        if layout.vector_size:
            self.vectors = nn.Linear(layout.vector_size, size)
            self.vector_positions = Positions(num_obs, size)
        if layout.images:
            channels, height, width = layout.image_shape
            self.images = nn.Sequential(ImageEncoder(channels, image_widths), nn.Conv2d(image_widths[-1], size, 1))
            for _ in image_widths:
                height, width = -(-height // 2), -(-width // 2)
            self.patch_positions = Positions(num_obs * height * width, size)
        if layout.texts:
            self.bytes = nn.Embedding(_NUM_BYTES, size)
            self.pieces = nn.Conv1d(size, size, _PIECE, padding=_PIECE // 2)
            self.byte_positions = Positions(layout.text_length, size)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return tokens `[B, S, D]`, and which of them are real, `[B, S]` bool."""
        tokens, masks = [], []
        if inputs.vectors is not None:
            tokens.append(self.vector_positions(self.vectors(inputs.vectors)))
            masks.append(torch.ones(tokens[-1].shape[:2], dtype=torch.bool, device=tokens[-1].device))
        if self.images is not None and self.patch_positions is not None and inputs.images is not None:
            batch, steps = inputs.images.shape[:2]
            patches = self.images(inputs.images.flatten(0, 1)).flatten(2).transpose(1, 2)  # [B * n, h * w, D]
            tokens.append(self.patch_positions(patches.reshape(batch, steps * patches.shape[1], -1)))
            masks.append(torch.ones(tokens[-1].shape[:2], dtype=torch.bool, device=tokens[-1].device))
        if self.bytes is not None and inputs.text is not None:
            embedded = self.bytes(inputs.text)
            pieces = nn.functional.gelu(self.pieces(embedded.transpose(1, 2))).transpose(1, 2)
            tokens.append(self.byte_positions(embedded + pieces))
            masks.append(inputs.text > 0)
        return torch.cat(tokens, 1), torch.cat(masks, 1)
