"""Intervals against tabulated numbers."""

import math

import pytest

from worldline.evaluation.metrics import t_interval95


def test_interval_of_twenty_values():
    values = [float(v) for v in range(20)]  # mean 9.5, s = 5.916, t(19) = 2.0930
    low, high = t_interval95(values)
    assert (low, high) == (pytest.approx(9.5 - 2.76882, abs=1e-4), pytest.approx(9.5 + 2.76882, abs=1e-4))


@pytest.mark.parametrize(("degrees", "quantile"), [(31, 2.03951), (40, 2.02108), (100, 1.98397), (1000, 1.96234)])
def test_expansion_beyond_the_table(degrees, quantile):
    values = [0.0] * degrees + [1.0]
    n = degrees + 1
    std = math.sqrt((1 - 1 / n) / degrees)
    low, high = t_interval95(values)
    assert (high - low) / 2 == pytest.approx(quantile * std / math.sqrt(n), rel=1e-4)


def test_one_value_tells_nothing_and_equal_values_have_no_spread():
    assert t_interval95([3.0]) == (-math.inf, math.inf)
    assert t_interval95([3.0, 3.0]) == (3.0, 3.0)
