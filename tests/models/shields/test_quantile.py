"""What is the quantile shield's own."""

from __future__ import annotations

import pytest
import torch

from models.shields.small_world import recorded, shield


@pytest.mark.parametrize("num_quantiles", [3, 4])
def test_the_median_is_typical_at_every_horizon(num_quantiles: int):
    built = shield("shield:quantile", recorded(20), num_quantiles=num_quantiles)
    states = torch.randn(20, built.state_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = built.scorer(states)(built.anchors(states, torch.zeros(20, 2)))
    assert scores.abs().max() < 1e-5


def test_scores_stay_finite_where_all_quantiles_are_the_same():
    built = shield("shield:quantile", recorded(20), smoothing=0.0)
    with torch.no_grad():
        built.head.weight.zero_()
        built.head.bias.fill_(-100.0)  # softplus of it is 0: no gaps
    states = torch.randn(5, built.state_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        score = built.scorer(states)
        anchors = built.anchors(states, torch.zeros(5, 2))
        assert score(anchors).abs().max() < 0.2  # rounding, of numbers near -100
        far = score(anchors + torch.tensor([0.0, 1.0]))
    assert far.isfinite().all()
    assert (far > 100).all()
