"""Intervals and tests against tabulated numbers, small cases counted by hand, and SciPy where it is installed."""

import math

import numpy as np
import pytest

from worldline.errors import ConfigError, DataError
from worldline.evaluation.statistics import (
    bootstrap_interval,
    compare_returns,
    compare_success,
    episodes_for_half_width,
    episodes_to_tell_apart,
    holm,
    mean_interval95,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (8, 10, 0.49016, 0.94332),
        (0, 10, 0.0, 3.841459 / 13.841459),  # z^2 / (n + z^2)
        (200, 200, 200 / 203.841459, 1.0),
        (1, 2, 0.5 - 1.959964 * 0.5 / math.sqrt(5.841459), 0.5 + 1.959964 * 0.5 / math.sqrt(5.841459)),
    ],
)
def test_wilson(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-5)


def test_wilson_equals_scipy_at_every_confidence():
    stats = pytest.importorskip("scipy.stats")
    for successes, trials, confidence in [(3, 17, 0.9), (190, 200, 0.99), (0, 5, 0.5)]:
        expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
        assert wilson_interval(successes, trials, confidence=confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_a_rate_is_in_its_own_interval():
    for trials in range(1, 60):
        for successes in range(trials + 1):
            low, high = wilson_interval(successes, trials)
            assert 0 <= low <= successes / trials <= high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 4)])
def test_impossible_rates_are_refused(successes, trials):
    with pytest.raises(DataError, match="no rate"):
        wilson_interval(successes, trials)


def test_bootstrap_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).exponential(size=40)
    for statistic, confidence in [(np.mean, 0.95), (np.median, 0.8)]:
        expected = stats.bootstrap(
            (values,), statistic, confidence_level=confidence, n_resamples=50_000, method="BCa", rng=2
        ).confidence_interval
        found = bootstrap_interval(
            values, statistic=lambda rows, of=statistic: of(rows, axis=-1), confidence=confidence, num_resamples=50_000
        )
        assert found == pytest.approx(tuple(expected), abs=0.01)  # resampling noise; the interval is 0.5 wide


def test_the_bootstrap_is_seeded_and_bends_towards_the_long_tail():
    values = [0.0] * 15 + [1.0, 2.0, 4.0, 8.0, 16.0]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    low, high = bootstrap_interval(values)
    assert high - 1.55 > 1.5 * (1.55 - low)


def test_bootstrap_intervals_hold_the_mean_as_often_as_they_promise():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = bootstrap_interval(generator.normal(size=30), num_resamples=1000)
        held += low <= 0.0 <= high
    assert 0.90 <= held / 300 <= 0.98  # 0.95, less about 0.015 at 30 values, +- 3 standard errors of 0.013


def test_equal_values_have_no_spread_and_one_is_refused():
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(DataError, match="at least two values"):
        bootstrap_interval([1.0])


def test_the_mean_of_few_values_is_as_students_t_has_it():
    assert mean_interval95([3.0]) == (-math.inf, math.inf)
    assert mean_interval95([3.0, 3.0]) == (3.0, 3.0)
    low, high = mean_interval95([float(value) for value in range(9)])  # mean 4, s = 2.7386, t(8) = 2.3060
    assert (low, high) == (pytest.approx(4 - 2.10507, abs=1e-4), pytest.approx(4 + 2.10507, abs=1e-4))


def test_the_mean_of_many_values_is_resampled():
    values = [float(value) for value in range(20)]
    assert mean_interval95(values) == bootstrap_interval(values)
    assert mean_interval95(values) == pytest.approx((9.5 - 2.5, 9.5 + 2.5), abs=0.15)  # 1.96 * 5.766 / sqrt(20)
    many = values * 200  # the same spread, 4,000 values
    half = 1.959964 * np.std(many, ddof=1) / math.sqrt(4000)
    assert mean_interval95(many) == pytest.approx((9.5 - half, 9.5 + half))


def test_successes_of_pairs():
    # Of ten pairs one policy alone succeeded in 1 and 7: P(at most 1 of 8 heads) = 9 / 256, twice.
    first = [1] + [0] * 7 + [1, 0]
    second = [0] + [1] * 7 + [1, 0]
    found = compare_success(first, second)
    assert (found.num_pairs, found.difference) == (10, 0.6)
    assert found.p_value == pytest.approx(18 / 256)
    half = 1.959964 * math.sqrt((2 / 12 + 8 / 12 - (6 / 12) ** 2) / 12)
    assert found.interval95 == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    turned = compare_success(second, first)
    assert (turned.difference, turned.p_value) == (-0.6, found.p_value)


def test_policies_that_agree_everywhere_do_not_differ():
    assert compare_success([True, False], [True, False]).p_value == 1.0
    assert compare_returns([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p_value == 1.0


def test_returns_of_few_pairs_are_counted():
    # Differences 1, 2, 3: of the 8 changes of sign only two have a sum as large as 6.
    found = compare_returns([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert found.p_value == 2 / 8
    assert found.difference == 2.0
    assert found.interval95 == pytest.approx((2 - 2.48417, 2 + 2.48417), abs=1e-4)


def test_returns_of_many_pairs_as_scipy_finds_them():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(3)
    first = generator.normal(size=40)
    second = first + 0.3 + 0.6 * generator.normal(size=40)
    expected = stats.permutation_test(
        (second - first,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    ).pvalue
    found = compare_returns(first, second)
    assert found.p_value == pytest.approx(expected, abs=0.01)  # 3 standard errors at 0.02 are 0.004
    assert found.p_value == compare_returns(first, second).p_value
    assert found.p_value != compare_returns(first, second, seed=1).p_value


@pytest.mark.parametrize("compare", [compare_success, compare_returns])
def test_pairs_must_be_pairs(compare):
    for first, second in [([1.0], [1.0, 0.0]), ([], [])]:
        with pytest.raises(DataError, match="same seeds"):
            compare(first, second)


@pytest.mark.parametrize(("half_width", "rate"), [(0.05, 0.5), (0.02, 0.95), (0.1, 0.0), (0.3, 1.0)])
def test_so_many_episodes_do_and_one_fewer_does_not(half_width, rate):
    num = episodes_for_half_width(half_width, rate=rate)
    z = 1.959964
    halves = [z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + (z / n) ** 2 / 4) for n in (num, num - 1)]
    assert halves[0] <= half_width < halves[1]


def test_how_many_episodes():
    assert episodes_for_half_width(0.05) == 381  # 0.25 * 3.8415 / 0.0025 - 3.8415 = 380.3
    assert episodes_for_half_width(0.05, confidence=0.99) == 657  # 0.25 * 6.6349 / 0.0025 - 6.6349 = 656.9
    assert episodes_to_tell_apart(0.8, 0.9) == episodes_to_tell_apart(0.9, 0.8) == 199
    assert episodes_to_tell_apart(0.8, 0.9, power=0.9) == 266
    assert episodes_to_tell_apart(0.8, 0.9, confidence=0.99) == 297


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ConfigError, match="half_width"):
        episodes_for_half_width(0.0)
    with pytest.raises(ConfigError, match="rate must"):
        episodes_for_half_width(0.1, rate=2.0)
    with pytest.raises(ConfigError, match="two different rates"):
        episodes_to_tell_apart(0.5, 0.5)
    with pytest.raises(ConfigError, match="power"):
        episodes_to_tell_apart(0.5, 0.6, power=1.0)
    with pytest.raises(ConfigError, match="confidence"):
        wilson_interval(1, 2, confidence=95)


def test_effect_sizes_by_hand():
    found = compare_returns([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])  # mean 2, deviation 1
    assert found.effect_size == 2.0
    assert compare_returns([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).effect_size == -2.0
    assert compare_success([False] * 4, [True, True, False, False]).effect_size == pytest.approx(0.5 / math.sqrt(1 / 3))
    assert math.isnan(compare_returns([1.0, 2.0], [2.0, 3.0]).effect_size)  # always the same: no deviation
    assert math.isnan(compare_returns([1.0], [2.0]).effect_size)


def test_effect_sizes_are_those_of_students_t_for_pairs():
    stats = pytest.importorskip("scipy.stats")
    draws = np.random.default_rng(1)
    first, second = draws.normal(size=(2, 25))
    expected = stats.ttest_rel(second, first).statistic / math.sqrt(25)
    assert compare_returns(first, second).effect_size == pytest.approx(expected)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
