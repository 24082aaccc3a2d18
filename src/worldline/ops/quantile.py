"""Quantile regression: the pinball loss, quantiles that cannot cross, and the density between them.

Koenker & Bassett, "Regression Quantiles" (1978). `levels [K]` rise within (0, 1); `quantiles [..., K]` rise with them.
"""

from __future__ import annotations

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
    pieces = levels.diff().log() - quantiles.diff(dim=-1).clamp(min=1e-12).log()  # [..., K - 1]
    # The piece that the target is in; where it is outside, the nearest one
    index = (target[..., None] > quantiles[..., 1:-1]).sum(-1, keepdim=True)  # [..., 1]
    inside = pieces.gather(-1, index)[..., 0]
    below, above = (quantiles[..., 0] - target).clamp(min=0), (target - quantiles[..., -1]).clamp(min=0)
    # A tail of probability m that begins at density f falls at the rate f / m.
    tails = below * pieces[..., 0].exp() / levels[0] + above * pieces[..., -1].exp() / (1 - levels[-1])
    return inside - tails


def _check(quantiles: Tensor, target: Tensor, levels: Tensor) -> None:
    assert quantiles.shape == (*target.shape, *levels.shape), (
        f"quantiles {tuple(quantiles.shape)} do not match target {tuple(target.shape)} and levels {tuple(levels.shape)}"
    )
