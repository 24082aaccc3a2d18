"""Split-conformal thresholds with one score per episode.

A shield raises a false alarm when it flags what the data support. How often it does so is bounded without any
assumption about the model (Vovk, Gammerman & Shafer 2005; Papadopoulos et al. 2002): if n + 1 scores are exchangeable,
the last one exceeds the k-th smallest of the others, k = ceil((n + 1) (1 - alpha)), with a probability of at most alpha
(and of at least alpha - 1 / (n + 1), where no two are equal).

Rows of one episode depend on each other, so they are not exchangeable with those of others; episodes are, if they come
from one policy and one environment and none was used to fit the model. So each episode gives one score
(Dunn, Wasserman & Ramdas 2022, who call it single subsampling):

- that of one row drawn uniformly: a row drawn uniformly from a new episode is flagged with a probability <= alpha
- that of its worst row: one or more rows of a new episode are flagged with a probability <= alpha

The probability is over the calibration episodes and the new one together. For one calibration set, the rate at which
new episodes are flagged varies like a Beta(n + 1 - k, k) variable, whose mean is at most alpha.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def conformal_threshold(scores: Tensor, alpha: float) -> Tensor:
    """Return the threshold, a scalar, that an exchangeable new score exceeds with a probability of at most `alpha`.

    Args:
        scores: `[n]`, larger is more unusual.
        alpha: Within (0, 1).

    Returns:
        The ceil((n + 1) (1 - alpha))-th smallest score; infinity if there are fewer than `min_episodes(alpha)`.
    """
    assert scores.ndim == 1, f"scores {tuple(scores.shape)} must be [n]"
    assert 0 < alpha < 1, f"alpha is {alpha}"
    rank = conformal_rank(len(scores), alpha)
    if rank > len(scores):
        return scores.new_tensor(math.inf)
    return scores.kthvalue(rank).values


def conformal_rank(num_scores: int, alpha: float) -> int:
    """Return k, from 1 on: which of the sorted scores is the threshold."""
    # Rounded first: 100 * (1 - 0.05) is 95 and not a little more.
    return max(1, math.ceil(round((num_scores + 1) * (1 - alpha), 9)))


def min_episodes(alpha: float) -> int:
    """Return how many scores a finite threshold takes.

    >>> min_episodes(0.05), min_episodes(0.01)
    (19, 99)
    """
    return math.ceil(round(1 / alpha, 9)) - 1


def draw_rows(lengths: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return one row of each episode, drawn uniformly, `[E]`: indices into rows that follow each other.

    Args:
        lengths: `[E]` rows of each episode, at least 1.
        generator: Draws the rows.
    """
    drawn = torch.rand(len(lengths), generator=generator, dtype=torch.float64).to(lengths.device)
    return lengths.cumsum(0) - lengths + (drawn * lengths).long().minimum(lengths - 1)


def worst_scores(scores: Tensor, lengths: Tensor) -> Tensor:
    """Return the largest score of each episode, `[E]`, of `scores [N]` and `lengths [E]`, which sum to N."""
    assert scores.ndim == 1, f"scores {tuple(scores.shape)} must be [N]"
    assert int(lengths.sum()) == len(scores), f"lengths sum to {int(lengths.sum())}, but there are {len(scores)} scores"
    return torch.segment_reduce(scores, "max", lengths=lengths)
