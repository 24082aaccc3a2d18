"""Transformer layers (Vaswani et al. 2017), normalised before each part, as has been usual since.

Sequences are `[B, S, D]`; a mask `[B, S]` says which elements may be looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldline.ops.attention import attend

_STD = 1.0  # of learnt positions at the beginning: as large as what they are added to


class Attention(nn.Module):
    """Looks from one sequence at another, or at itself.

    Args:
        size: D, a multiple of `heads`.
        heads: Of size D / heads each.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        assert size % heads == 0, f"{size} features do not fall into {heads} heads"
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what `x [B, S, D]` sees in `context [B, C, D]`, where `mask [B, C]` is True: `[B, S, D]`."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, S, D / heads]
        key, value = self.key_value(context).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1)
        seen = attend(query, key, value, mask)
        result: Tensor = self.output(seen.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Self-attention, attention to a context if there is one, and a network for each element.

    Args:
        size: D.
        heads: Of attention.
        units: Of the network.
        dropout: Share of what each part adds that is left out while training.
        has_context: Whether there is a context.
    """

    def __init__(self, size: int, heads: int, units: int, *, dropout: float = 0.0, has_context: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.context_norm = nn.LayerNorm(size) if has_context else None
        self.context_attention = Attention(size, heads) if has_context else None
        self.net = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, units), nn.GELU(), nn.Linear(units, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Map `x [B, S, D]` to the same shape; `mask` is of the context if there is one, else of `x` itself."""
        normed = self.norm(x)
        x = x + self.dropout(self.attention(normed, normed, mask if context is None else None))
        if self.context_norm is not None and self.context_attention is not None and context is not None:
            x = x + self.dropout(self.context_attention(self.context_norm(x), context, mask))
        result: Tensor = x + self.dropout(self.net(x))
        return result


class Transformer(nn.Module):
    """Blocks one after the other, and a norm at the end.

    Args:
        size: D.
        layers: Number of blocks.
        heads: Of attention.
        units: Of the networks.
        dropout: As in `Block`.
        has_context: Whether blocks look at a context as well.
    """

    def __init__(
        self, size: int, layers: int, heads: int, *, units: int, dropout: float = 0.0, has_context: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(size, heads, units, dropout=dropout, has_context=has_context) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Map `x [B, S, D]` to the same shape; see `Block`."""
        for block in self.blocks:
            x = block(x, mask, context)
        result: Tensor = self.norm(x)
        return result


class Positions(nn.Module):
    """Adds a learnt vector to each place of a sequence."""

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(_STD * torch.randn(length, size))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x [B, S, D]` to the same shape; S is the length."""
        return x + self.vectors
