"""Quantile regression: the pinball loss, quantiles that cannot cross, and the density between them.

Koenker & Bassett, "Regression Quantiles" (1978). `levels [K]` rise within (0, 1); `quantiles [..., K]` rise with them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def pinball_loss(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Return the mean over K of the loss that the quantiles of `target [...]` minimise, `[...]`.

    For the quantile q at level u it is u (y - q) where y > q, and (1 - u) (q - y) elsewhere.
    """
    _check(quantiles, target, levels)
    error = target[..., None] - quantiles  # [..., K]
    return torch.maximum(levels * error, (levels - 1) * error).mean(-1)


def rising_quantiles(raw: Tensor) -> Tensor:
    """Return quantiles `[..., K]` that never fall, of any numbers `raw [..., K]`.

    The middle one is itself; each of the others is a softplus further out than its neighbour towards the middle.
    """
    assert raw.ndim >= 1, "raw must be [..., K]"
    middle = raw.shape[-1] // 2
    gaps = F.softplus(raw)
    below = -gaps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    above = gaps[..., middle + 1 :].cumsum(-1)
    centre = raw[..., middle : middle + 1]
    return torch.cat((centre + below, centre, centre + above), -1)


def quantile_log_density(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Return the log-density at `target [...]` of the distribution with these quantiles, `[...]` in nats.

    Between two quantiles it is uniform; beyond the outermost it falls exponentially from the density of the last piece,
    with all of the probability that is left. It integrates to 1.
    """
    _check(quantiles, target, levels)
    pieces = _log_densities(quantiles, levels)
    below, above = _beyond(quantiles, target, levels, pieces)
    return pieces.gather(-1, _piece(quantiles, target))[..., 0] - below - above


def quantile_log_tail(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Return how likely values at least as extreme as `target [...]` are, `[...]` in nats, in the same distribution.

    It is log(2 min(P(Y <= target), P(Y >= target))): 0 at the median, and falling on both sides of it.
    """
    _check(quantiles, target, levels)
    pieces = _log_densities(quantiles, levels)
    below, above = _beyond(quantiles, target, levels, pieces)
    index = _piece(quantiles, target)
    start, density = quantiles.gather(-1, index)[..., 0], pieces.gather(-1, index)[..., 0].exp()
    share = levels[index[..., 0]] + density * (target.clamp(quantiles[..., 0], quantiles[..., -1]) - start)
    share = share.clamp(levels[0], levels[-1])  # against rounding
    return torch.minimum(share.log() - below, (-share).log1p() - above) + math.log(2)


def _log_densities(quantiles: Tensor, levels: Tensor) -> Tensor:
    """Return the log-density between neighbouring quantiles, `[..., K - 1]`."""
    return levels.diff().log() - quantiles.diff(dim=-1).clamp(min=1e-12).log()


def _piece(quantiles: Tensor, target: Tensor) -> Tensor:
    """Return between which two quantiles the target is, `[..., 1]`; where it is outside, the nearest two."""
    return (target[..., None] > quantiles[..., 1:-1]).sum(-1, keepdim=True)


def _beyond(quantiles: Tensor, target: Tensor, levels: Tensor, pieces: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how many nats the tails have fallen at the target, `[...]` below and above all quantiles."""
    below, above = (quantiles[..., 0] - target).clamp(min=0), (target - quantiles[..., -1]).clamp(min=0)
    # A tail of probability m that begins at density f falls at the rate f / m.
    return below * pieces[..., 0].exp() / levels[0], above * pieces[..., -1].exp() / (1 - levels[-1])


def _check(quantiles: Tensor, target: Tensor, levels: Tensor) -> None:
    assert quantiles.shape == (*target.shape, *levels.shape), (
        f"quantiles {tuple(quantiles.shape)} do not match target {tuple(target.shape)} and levels {tuple(levels.shape)}"
    )
