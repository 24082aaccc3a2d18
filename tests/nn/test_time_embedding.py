from __future__ import annotations

import math

import pytest
import torch

from worldline.nn.time_embedding import TimeEmbedding


def test_by_hand():
    embedding = TimeEmbedding(4, max_period=100.0)(torch.tensor(50))
    expected = [math.sin(50), math.sin(0.5), math.cos(50), math.cos(0.5)]
    assert torch.allclose(embedding, torch.tensor(expected), atol=1e-5)


def test_scale_turns_times_into_levels():
    assert torch.allclose(TimeEmbedding(16, scale=1000.0)(torch.tensor(0.5)), TimeEmbedding(16)(torch.tensor(500)))


@pytest.mark.parametrize("shape", [(), (3,), (3, 5)])
def test_leading_dimensions_are_free(shape: tuple[int, ...]):
    t = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    embedding = TimeEmbedding(8, scale=1000.0)
    assert embedding(t).shape == (*shape, 8)
    assert torch.equal(embedding(t).reshape(-1, 8), embedding(t.reshape(-1)))


def test_near_times_are_told_apart():
    levels = TimeEmbedding(32)(torch.arange(1000))
    distances = torch.cdist(levels, levels) + 10 * torch.eye(1000)
    assert distances.min() > 0.1


def test_nothing_is_saved():
    assert not TimeEmbedding(8).state_dict()
