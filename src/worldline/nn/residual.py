"""A residual network whose layers are modulated by a condition: what denoises chunks of actions at little cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConditionalMLP(nn.Module):
    """From a sequence, all of its rows together, and a condition to a sequence of the same shape.

    Two layers embed the condition; it is added to the features at the beginning. Each block adds to the features what
    two linear layers make of them; the embedding scales and shifts what the first one sees (as in "DiT", Peebles & Xie
    2023), and a block adds nothing at first. Without the embedding, raw observations modulate the blocks linearly: a
    flow policy on pick-and-place then succeeded in 48% of episodes, and in 99% with it.

    Args:
        length: T of the sequence.
        channels: C of the sequence.
        condition: D of the condition.
        units: Features between the blocks.
        blocks: How many.
    """

    def __init__(self, length: int, channels: int, condition: int, *, units: int, blocks: int) -> None:
        super().__init__()
        self.shape = (length, channels)
        self.embed = nn.Sequential(nn.Linear(condition, units), nn.SiLU(), nn.Linear(units, units))
        self.input = nn.Linear(length * channels, units)
        self.blocks = nn.ModuleList(_Block(units, units) for _ in range(blocks))
        self.norm = nn.LayerNorm(units)
        self.output = nn.Linear(units, length * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map `x [B, T, C]` under `condition [B, D]` to `[B, T, C]`."""
        embedded = self.embed(condition)
        hidden = self.input(x.flatten(1)) + embedded
        embedded = F.silu(embedded)
        for block in self.blocks:
            hidden = block(hidden, embedded)
        rows: Tensor = self.output(F.silu(self.norm(hidden))).unflatten(1, self.shape)
        return rows


class _Block(nn.Module):
    def __init__(self, units: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(units, elementwise_affine=False)
        self.film = nn.Linear(condition, 2 * units)
        self.first = nn.Linear(units, 2 * units)
        self.second = nn.Linear(2 * units, units)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition).chunk(2, 1)  # each [B, U]
        hidden = torch.addcmul(shift, self.norm(x), scale + 1)
        result: Tensor = x + self.second(F.silu(self.first(hidden)))
        return result
