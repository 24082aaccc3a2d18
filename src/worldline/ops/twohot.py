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


def twohot_mean(probs: Tensor, bins: Tensor) -> Tensor:
    """Return the mean of `probs [..., K]` over `bins [K]`; shape `[...]`.

    Bins of equal size and opposite sign are taken together, so that uniform probabilities give exactly zero: a sum
    from one end to the other would be off by the rounding of bins as large as 5e8.
    """
    assert probs.shape[-1] == len(bins), f"probs {tuple(probs.shape)} do not match {len(bins)} bins"
    half = len(bins) // 2
    # The middle bin of an odd number is zero.
    return (probs[..., -half:] - probs[..., :half].flip(-1)) @ bins[-half:]


def twohot_loss(log_probs: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Return the cross-entropy between `log_probs [..., K]` and the two-hot code of `target [...]`; `[...]`, nats.

    The target takes no gradient. Targets beyond the outermost bins count as those bins.
    """
    assert log_probs.shape[:-1] == target.shape, (
        f"log_probs {tuple(log_probs.shape)} do not match target {tuple(target.shape)}"
    )
    target = target.detach().float().contiguous()
    above = torch.searchsorted(bins, target, right=True)
    below = (above - 1).clamp_(min=0)
    above = above.clamp_(max=len(bins) - 1)
    to_below = (bins[below] - target).abs()
    to_above = (bins[above] - target).abs()
    # Beyond the ends both neighbours are the same bin, which then gets the whole weight.
    weight_above = torch.where(below == above, torch.zeros_like(target), to_below / (to_below + to_above))
    chosen = torch.gather(log_probs, -1, torch.stack([below, above], -1))  # [..., 2]
    return -torch.lerp(chosen[..., 0], chosen[..., 1], weight_above)


def symlog_bins(num_bins: int, limit: float = 10.0) -> Tensor:
    """Return `[K]` bins at equal distances over -limit ... limit, exactly symmetric: for two-hot codes of symlogs."""
    if num_bins < 2:
        raise ValueError(f"Two-hot regression needs at least 2 bins; got {num_bins}.")
    half = torch.linspace(-limit, limit, num_bins)[: (num_bins + 1) // 2]
    if num_bins % 2:
        half[-1] = 0.0
    mirrored = -half.flip(0)
    return torch.cat([half, mirrored[1:] if num_bins % 2 else mirrored])
