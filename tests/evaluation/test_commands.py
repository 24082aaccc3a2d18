"""Commands that data hold, and how what is done goes with them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldline.data.buffer import ReplayBuffer
from worldline.errors import ConfigError, DataError
from worldline.evaluation.commands import agreement, commands_in, spearman


def buffer(*episodes: tuple[int, float]) -> ReplayBuffer:
    """Return episodes of so many steps and such a return."""
    data = ReplayBuffer(10_000, (1,), 1, action_sizes=())
    for length, value in episodes:
        rewards = np.zeros(length)
        rewards[-1] = value
        data.add_episode(np.zeros((length, 1)), np.zeros((length, 1)), rewards, terminated=True)
    return data


def test_commands_are_returns_with_the_steps_of_their_neighbours():
    data = buffer(*[(value + 1, float(value)) for value in range(101)])  # each return took one step more
    assert commands_in(data, 3) == [(6.0, 5.0), (51.0, 50.0), (96.0, 95.0)]


def test_quantiles_ask_for_what_is_frequent():
    data = buffer(*[(1, 0.0)] * 90, *[(7, 100.0)] * 10)
    even, quantiles = commands_in(data, 3), commands_in(data, 3, spacing="quantiles")
    assert [value for _, value in even] == [0.0, 50.0, 100.0]
    assert [value for _, value in quantiles] == [0.0, 0.0, 100.0]
    assert [steps for steps, _ in quantiles] == [1.0, 1.0, 7.0]


def test_the_steps_are_a_median_of_the_nearest():
    data = buffer(*[(5, 10.0), (9, 10.0), (50, 10.0)] * 50)  # 2% of 150 episodes are three
    assert commands_in(data, 1) == [(9.0, 10.0)]


def test_agreement_by_hand():
    found = agreement([0.0, 10.0, 20.0], [[1.0, 3.0], [5.0, 9.0], [11.0, 13.0]])  # means 2, 7, 12
    assert found.slope == pytest.approx(0.5)
    assert found.spearman == pytest.approx(1.0)
    assert found.mean_distance == pytest.approx((1 + 3 + 5 + 1 + 9 + 7) / 6)
    turned = agreement([20.0, 0.0], [[0.0], [5.0]])
    assert (turned.slope, turned.spearman) == (pytest.approx(-0.25), pytest.approx(-1.0))
    alone = agreement([3.0], [[3.0]])
    assert math.isnan(alone.slope)
    assert math.isnan(alone.spearman)


def test_rank_correlation_as_scipy_finds_it():
    stats = pytest.importorskip("scipy.stats")
    draws = np.random.default_rng(0)
    x, y = draws.integers(0, 6, 50), draws.integers(0, 6, 50)  # with many ties
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_mistakes():
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        commands_in(buffer((1, 1.0)), 0)
    with pytest.raises(DataError, match="no episodes"):
        commands_in(buffer(), 1)
    with pytest.raises(DataError, match=r"got shapes \(2,\) and \(1, 2\)"):
        agreement([1.0, 2.0], [[1.0, 2.0]])
