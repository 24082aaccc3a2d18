"""Normalising by the data's statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from worldline.errors import DataError
from worldline.nn.normalizer import Normalizer
from worldline.statistics import ColumnStatistics

ROWS = np.array([[1.0, 7.0, -2.0], [3.0, 7.0, 2.0], [5.0, 7.0, 6.0]])


def test_standard_scores_by_hand() -> None:
    normalizer = Normalizer((3,))
    normalizer.fit(ColumnStatistics.of([ROWS]))
    found = normalizer(torch.from_numpy(ROWS))
    deviation = (8 / 3) ** 0.5
    expected = torch.tensor([[-2 / deviation, 0.0, -1.224745], [0.0, 0.0, 0.0], [2 / deviation, 0.0, 1.224745]])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normalizer.inverse(found), torch.from_numpy(ROWS).float())


def test_the_range_of_the_data_becomes_minus_one_to_one() -> None:
    normalizer = Normalizer((3,), kind="range")
    normalizer.fit(ColumnStatistics.of([ROWS]))
    expected = torch.tensor([[-1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    torch.testing.assert_close(normalizer(torch.from_numpy(ROWS)), expected)


def test_what_is_nearly_constant_is_not_blown_up() -> None:
    normalizer = Normalizer((1,))
    normalizer.fit(ColumnStatistics.of([np.array([[1000.0], [1000.0 + 1e-7]])]))
    assert normalizer(torch.tensor([[1000.5]])).abs().max() < 1


def test_it_refuses_to_guess() -> None:
    normalizer = Normalizer((2,))
    assert not normalizer.is_fitted
    with pytest.raises(DataError, match="does not know the scale"):
        normalizer(torch.zeros(1, 2))
    with pytest.raises(DataError, match="shape \\(3,\\)"):
        normalizer.fit(ColumnStatistics.of([ROWS]))


def test_statistics_are_saved_with_the_model(tmp_path: Path) -> None:
    normalizer = Normalizer((3,))
    normalizer.fit(ColumnStatistics.of([ROWS]))
    other = Normalizer((3,))
    other.load_state_dict(normalizer.state_dict())
    assert other.is_fitted
    assert torch.equal(other(torch.ones(2, 3)), normalizer(torch.ones(2, 3)))
