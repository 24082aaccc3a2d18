"""A convolutional U-Net over time, modulated by features: what denoises chunks of actions.

Janner et al.: "Planning with Diffusion for Flexible Behavior Synthesis" (2022), as Chi et al. ("Diffusion Policy",
2023) condition it: every block scales and shifts its channels by a linear function of the condition (FiLM, Perez et al.
2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_KERNEL = 5
_GROUPS = 8


class ConditionalUNet1d(nn.Module):
    """From a sequence and a condition to a sequence of the same shape.

    Args:
        channels: C of the sequence.
        condition: D of the condition.
        widths: Channels of each level; between two levels, time is halved.
    """

    def __init__(self, channels: int, condition: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)  # the length of a sequence must be a multiple of it
        pairs = list(zip((channels, *widths[:-1]), widths, strict=True))
        last = widths[-1]
        self.down = nn.ModuleList(
            nn.ModuleList([FiLMBlock(before, after, condition), FiLMBlock(after, after, condition)])
            for before, after in pairs
        )
        self.shrink = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for width in widths[:-1])
        self.middle = nn.ModuleList([FiLMBlock(last, last, condition), FiLMBlock(last, last, condition)])
        self.up = nn.ModuleList(
            nn.ModuleList([FiLMBlock(2 * after, before, condition), FiLMBlock(before, before, condition)])
            for before, after in reversed(pairs[1:])
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for width in reversed(widths[:-1])
        )
        self.output = nn.Sequential(_Normed(widths[0], widths[0]), nn.Conv1d(widths[0], channels, 1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map `x [B, T, C]` under `condition [B, D]` to `[B, T, C]`; T is a multiple of `stride`."""
        assert x.shape[1] % self.stride == 0, f"{x.shape[1]} rows are no multiple of {self.stride}"
        condition = F.silu(condition)
        hidden = x.transpose(1, 2)  # [B, C, T]
        skips = []
        for level, blocks in enumerate(self.down):
            for block in _listed(blocks):
                hidden = block(hidden, condition)
            skips.append(hidden)
            if level < len(self.shrink):
                hidden = self.shrink[level](hidden)
        for block in self.middle:
            hidden = block(hidden, condition)
        for blocks, grow in zip(self.up, self.grow, strict=True):  # as in the reference, the first level is not joined
            hidden = torch.cat([hidden, skips.pop()], 1)
            for block in _listed(blocks):
                hidden = block(hidden, condition)
            hidden = grow(hidden)
        result: Tensor = self.output(hidden).transpose(1, 2)
        return result


class FiLMBlock(nn.Module):
    """Two convolutions with a residual connection; the condition scales and shifts the channels between them."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.first = _Normed(before, after)
        self.film = nn.Linear(condition, 2 * after)
        self.second = _Normed(after, after)
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map `x [B, C, T]` under `condition [B, D]` to `[B, C', T]`."""
        scale, shift = self.film(condition)[..., None].chunk(2, 1)  # each [B, C', 1]
        hidden = self.second(torch.addcmul(shift, self.first(x), scale + 1))
        result: Tensor = hidden + self.skip(x)
        return result


class _Normed(nn.Sequential):
    """Convolution over time, group norm, SiLU (the papers' Mish takes eight times as long on a CPU)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            nn.Conv1d(before, after, _KERNEL, padding=_KERNEL // 2), nn.GroupNorm(_GROUPS, after), nn.SiLU()
        )


def _listed(blocks: nn.Module) -> nn.ModuleList:
    assert isinstance(blocks, nn.ModuleList)
    return blocks
