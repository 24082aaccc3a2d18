from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldline.ops.conformal import conformal_threshold, draw_rows, min_episodes, worst_scores


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_threshold_by_hand():
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0, 8.0, 6.0])
    assert conformal_threshold(scores, 0.1) == 9  # ceil(10 * 0.9)
    assert conformal_threshold(scores, 0.2) == 8
    assert conformal_threshold(scores, 0.25) == 8  # ceil(7.5)
    assert conformal_threshold(scores, 0.09) == math.inf  # the tenth of nine


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3])
def test_min_episodes_is_where_thresholds_begin_to_be_finite(alpha: float):
    enough = min_episodes(alpha)
    assert conformal_threshold(torch.zeros(enough), alpha) == 0
    assert conformal_threshold(torch.zeros(enough - 1), alpha) == math.inf


def test_rounding_does_not_raise_the_rank():
    assert conformal_threshold(torch.arange(19.0), 0.05) == 18  # 20 * 0.95 is 19, the last one
    assert conformal_threshold(torch.arange(99.0), 0.07) == 92  # 100 * 0.93 is 93


def test_scores_of_episodes_by_hand():
    scores, lengths = torch.tensor([1.0, 9.0, 2.0, 5.0, 3.0]), torch.tensor([3, 1, 1])
    assert torch.equal(worst_scores(scores, lengths), torch.tensor([9.0, 5.0, 3.0]))
    drawn = scores[torch.stack([draw_rows(lengths, generator=generator(seed)) for seed in range(3000)])]
    assert (drawn[:, 1:] == torch.tensor([5.0, 3.0])).all()
    for value in (1.0, 9.0, 2.0):  # each row of the first as often
        assert (drawn[:, 0] == value).float().mean().item() == pytest.approx(1 / 3, abs=0.03)


def episodes(num: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return scores of rows that depend on each other, in episodes whose length depends on the scores."""
    draws = generator(seed)
    level = torch.randn(num, generator=draws)
    lengths = (5 + 20 * torch.sigmoid(2 * level)).long()
    rows = level.repeat_interleave(lengths)
    return rows + 0.3 * torch.randn(len(rows), generator=draws), lengths


@pytest.mark.parametrize("drawn", [True, False], ids=["row", "episode"])
@pytest.mark.parametrize(("num", "alpha"), [(30, 0.1), (50, 0.05), (99, 0.01)])
def test_coverage_over_many_splits(drawn: bool, num: int, alpha: float):
    """The false alarms of new episodes are at most alpha, and at least alpha - 1 / (n + 1), on average over splits."""
    rates = []
    for split in range(400):
        scores, lengths = episodes(num + 200, seed=split)
        one_each = scores[draw_rows(lengths, generator=generator(split))] if drawn else worst_scores(scores, lengths)
        threshold = conformal_threshold(one_each[:num], alpha)
        rates.append((one_each[num:] > threshold).float().mean().item())
    spread = 4 * torch.tensor(rates).std().item() / math.sqrt(len(rates))
    mean = sum(rates) / len(rates)
    assert alpha - 1 / (num + 1) - spread <= mean <= alpha + spread


def test_rows_taken_as_if_they_were_independent_do_not_cover():
    """Why one score per episode: with all rows in one pool, more than alpha of the worst rows are flagged."""
    rates = []
    for split in range(50):
        scores, lengths = episodes(230, seed=split)
        in_use = int(lengths[:30].sum())
        threshold = conformal_threshold(scores[:in_use], 0.1)
        worst = worst_scores(scores[in_use:], lengths[30:])
        rates.append((worst > threshold).float().mean().item())
    assert sum(rates) / len(rates) > 0.13
