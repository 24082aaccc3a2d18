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
