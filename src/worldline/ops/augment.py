"""Random changes of images that leave what they show as it was."""

from __future__ import annotations

import torch
from torch import Tensor


def random_shift(images: Tensor, most: int) -> Tensor:
    """Return every image moved by up to `most` pixels either way; its edge pixels fill what is uncovered.

    Yarats, Kostrikov & Fergus, "Image Augmentation Is All You Need" (2021), with whole pixels.

    Args:
        images: `[B, C, H, W]` of any type; the channels of an image are moved together.
        most: Pixels; 0 leaves the images as they are.
    """
    assert images.ndim == 4, f"images {tuple(images.shape)} must be [B, C, H, W]"
    if most == 0:
        return images
    batch, _, height, width = images.shape
    shifts = torch.randint(-most, most + 1, (2, batch, 1), device=images.device)
    rows = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)  # [B, H]
    columns = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)  # [B, W]
    index = torch.arange(batch, device=images.device)
    # Channels last while rows and columns are picked: an index goes with each pixel, not with each of its channels.
    moved = images.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
    return moved.permute(0, 3, 1, 2)
