"""Symmetric logarithm and two-hot regression (Hafner et al. 2023, "Mastering Diverse Domains through World Models").

A scalar is predicted as a distribution over fixed bins, spaced evenly after a symlog; the target is the pair of
neighbouring bins whose weighted mean it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) log(1 + |x|), eq. 9; any shape."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Return sign(x) (exp(|x|) - 1), the inverse of `symlog`; any shape."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(num_bins: int, limit: float = 20.0) -> Tensor:
    """Return `[K]` bins symexp(-limit ... limit), exactly symmetric about zero, eq. 10."""
    if num_bins < 2:
        raise ValueError(f"Two-hot regression needs at least 2 bins; got {num_bins}.")
    half = symexp(torch.linspace(-limit, 0.0, (num_bins + 1) // 2))
    mirrored = -half.flip(0)
    return torch.cat([half, mirrored[1:] if num_bins % 2 else mirrored])


def twohot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """Return the mean of the distribution that `logits [..., K]` describe over `bins [K]`; shape `[...]`.

    Bins of equal size and opposite sign are added first, so that uniform logits give exactly zero: a sum from one
    end to the other would be off by the rounding of bins as large as 5e8.
    """
    assert logits.shape[-1] == len(bins), f"logits {tuple(logits.shape)} do not match {len(bins)} bins"
    weighted = torch.softmax(logits.float(), -1) * bins
    half = len(bins) // 2
    pairs = weighted[..., :half].flip(-1) + weighted[..., -half:]
    # The middle bin of an odd number is zero.
    return pairs.sum(-1)


def twohot_loss(logits: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Return the cross-entropy between `logits [..., K]` and the two-hot code of `target [...]`; shape `[...]`, nats.

    The target takes no gradient. Targets beyond the outermost bins count as those bins.
    """
    assert logits.shape[:-1] == target.shape, f"logits {tuple(logits.shape)} do not match target {tuple(target.shape)}"
    logits, target = logits.float(), target.detach().float().contiguous()
    above = torch.searchsorted(bins, target, right=True)
    below = (above - 1).clamp_(min=0)
    above = above.clamp_(max=len(bins) - 1)
    to_below = (bins[below] - target).abs()
    to_above = (bins[above] - target).abs()
    # Beyond the ends both neighbours are the same bin, which then gets the whole weight.
    weight_above = torch.where(below == above, torch.zeros_like(target), to_below / (to_below + to_above))
    index = torch.stack([below, above], -1)  # [..., 2]
    chosen = torch.gather(logits, -1, index)
    expected = chosen[..., 0] + weight_above * (chosen[..., 1] - chosen[..., 0])
    return torch.logsumexp(logits, -1) - expected
