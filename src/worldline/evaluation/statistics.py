"""What a number of episodes tells: intervals, comparisons of two policies, and how many episodes it takes.

All is computed with NumPy and the normal distribution of the standard library; the tests compare it with SciPy.
Whatever resamples is seeded: the same episodes give the same numbers.

References:
    Wilson (1927), Probable inference, the law of succession, and statistical inference.
    Efron (1987), Better bootstrap confidence intervals.
    Bonett and Price (2012), Adjusted Wald confidence interval for a difference of binomial proportions, paired data.
    Cohen (1988), Statistical power analysis for the behavioral sciences, section 2.3.
    Holm (1979), A simple sequentially rejective multiple test procedure.
    Fleiss, Levin and Paik (2003), Statistical methods for rates and proportions, section 4.2.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from worldline.episode import Array
from worldline.errors import ConfigError, DataError

Interval = tuple[float, float]
Statistic = Callable[[Array], Array]  # [R, n] resampled values -> [R]

NUM_RESAMPLES = 10_000
_NORMAL = statistics.NormalDist()
_BLOCK = 1 << 22  # values resampled together, so that memory does not grow with their number
_MAX_EXACT = 14  # pairs up to which all 2 ** n changes of sign are tried
_RESAMPLED = range(10, 2001)  # resamples of fewer values spread too little; means of more are as good as normal

# Two-sided 95% quantiles of Student's t for 1 to 8 degrees of freedom.
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)


def wilson_interval(num_successes: int, num_trials: int, *, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a success rate.

    It never leaves [0, 1], and says something where nothing or everything succeeded.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)

    Raises:
        DataError: There are no trials, or more successes than trials.
    """
    if num_trials < 1 or not 0 <= num_successes <= num_trials:
        raise DataError(
            f"{num_successes} successes of {num_trials} trials are no rate; expected 0 <= n <= trials >= 1."
        )
    rate = num_successes / num_trials
    middle, half = _wilson(rate, num_trials, _quantile(confidence))
    # Rounding must not push a rate of 0 or 1 out of its own interval.
    return min(max(0.0, middle - half), rate), max(min(1.0, middle + half), rate)


def bootstrap_interval(
    values: Sequence[float] | Array,
    *,
    statistic: Statistic = lambda rows: rows.mean(axis=-1),
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the BCa bootstrap interval of a statistic of `values [n]`, which is the mean unless another is given.

    BCa ("bias-corrected and accelerated") keeps its promise better than percentiles where values are skewed, as returns
    are. Below ten values every bootstrap is too narrow; `mean_interval95` takes Student's t there.

    Args:
        values: Independent observations, such as returns of episodes.
        statistic: From resamples `[R, n]` to `[R]`.
        confidence: The share of such intervals that holds the truth, about.
        num_resamples: How many resamples are drawn.
        seed: Seed of the resampling.

    Raises:
        DataError: There are fewer than two values.
    """
    observed = np.asarray(values, dtype=np.float64)
    if observed.ndim != 1 or len(observed) < 2:
        raise DataError(f"A bootstrap needs at least two values [n]; got shape {observed.shape}.")
    if (observed == observed[0]).all():
        same = float(statistic(observed[None])[0])
        return same, same
    resampled = np.concatenate(
        [
            statistic(observed[indices])  # [R, n] -> [R]
            for indices in _resamples(len(observed), num_resamples, np.random.default_rng(seed))
        ]
    )
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    levels = _bca_levels(observed, resampled, statistic, tails)
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


def mean_interval95(values: Sequence[float] | Array) -> Interval:
    """Return the 95% interval of a mean: BCa bootstrap; Student's t below ten values, and beyond 2,000.

    One value tells nothing about the spread and gives (-inf, inf).

    >>> low, high = mean_interval95([1.0, 2.0, 3.0])  # 2 +- 4.3027 * 1 / sqrt(3)
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) in _RESAMPLED:
        return bootstrap_interval(values)
    if len(values) < 2:
        return -math.inf, math.inf
    numbers = [float(value) for value in values]
    mean = statistics.fmean(numbers)
    quantile = _T95[len(numbers) - 2] if len(numbers) - 2 < len(_T95) else _quantile(0.95)
    half = quantile * statistics.stdev(numbers) / math.sqrt(len(numbers))
    return mean - half, mean + half


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """What two policies achieved on the same seeds, the second measured against the first."""

    num_pairs: int
    difference: float  # mean of second - first
    interval95: Interval  # of the difference
    p_value: float  # how likely so large a difference, in either direction, is between policies that do not differ
    effect_size: float  # the difference in deviations of the pairs' differences (Cohen's d_z); NaN where these are 0


def compare_success(first: Sequence[bool] | Array, second: Sequence[bool] | Array) -> PairedComparison:
    """Compare two policies by the successes `[n]` of the same n episodes.

    The p-value is McNemar's, exact: only the pairs in which one policy alone succeeded count, and each of these is a
    toss of a coin if the policies do not differ. The interval is that of Bonett and Price.

    Raises:
        DataError: The episodes are not the same, or there are none.
    """
    before, after = _pairs(first, second, np.dtype(np.bool_))
    num = len(before)
    only_first, only_second = int((before & ~after).sum()), int((after & ~before).sum())
    lost, won = (only_first + 1) / (num + 2), (only_second + 1) / (num + 2)
    half = _quantile(0.95) * math.sqrt((lost + won - (won - lost) ** 2) / (num + 2))
    return PairedComparison(
        num_pairs=num,
        difference=(only_second - only_first) / num,
        interval95=(max(-1.0, won - lost - half), min(1.0, won - lost + half)),
        p_value=_coin_p_value(only_first, only_first + only_second),
        effect_size=_effect_size(after.astype(np.float64) - before),
    )


def compare_returns(
    first: Sequence[float] | Array, second: Sequence[float] | Array, *, seed: int = 0
) -> PairedComparison:
    """Compare two policies by the returns `[n]` of the same n episodes.

    The p-value is that of a permutation test: if the policies do not differ, each difference may as well have the other
    sign. Up to 14 pairs all changes of sign are tried, beyond 10,000 random ones. The interval is `mean_interval95`.

    Raises:
        DataError: The episodes are not the same, or there are none.
    """
    before, after = _pairs(first, second, np.dtype(np.float64))
    differences = after - before
    return PairedComparison(
        num_pairs=len(differences),
        difference=float(differences.mean()),
        interval95=mean_interval95(differences),
        p_value=_sign_p_value(differences, seed),
        effect_size=_effect_size(differences),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values of several comparisons, corrected so that all of them together err as seldom as one would.

    Holm's method: the smallest is multiplied by their number, the next by one less, and so on; none falls below the one
    before.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def episodes_for_half_width(half_width: float, *, rate: float = 0.5, confidence: float = 0.95) -> int:
    """Return how many episodes make Wilson's interval at most `half_width` wide to either side.

    A rate of 0.5 needs most, so that is what to plan with if nothing is known.

    >>> episodes_for_half_width(0.05), episodes_for_half_width(0.05, rate=0.95)
    (381, 83)

    Raises:
        ConfigError: The half width is not in (0, 0.5), or the rate not in [0, 1].
    """
    if not 0 < half_width < 0.5:
        raise ConfigError(f"half_width must be between 0 and 0.5; got {half_width}.")
    if not 0 <= rate <= 1:
        raise ConfigError(f"rate must be between 0 and 1; got {rate}.")
    z = _quantile(confidence)
    low, high = 0, 1  # `low` are too few
    while _wilson(rate, high, z)[1] > half_width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _wilson(rate, middle, z)[1] > half_width else (low, middle)
    return high


def episodes_to_tell_apart(rate: float, other: float, *, power: float = 0.8, confidence: float = 0.95) -> int:
    """Return how many episodes of each of two policies show that their success rates differ.

    That is for independent episodes. On the same seeds (`compare_success`) fewer do, if both policies fail at the same
    ones.

    >>> episodes_to_tell_apart(0.8, 0.9)
    199

    Args:
        rate: The success rate of one policy.
        other: That of the other.
        power: The probability that the difference is found.
        confidence: One minus the probability that a difference is found where there is none.

    Raises:
        ConfigError: The rates are equal, or not in [0, 1].
    """
    if not (0 <= rate <= 1 and 0 <= other <= 1) or rate == other:
        raise ConfigError(f"Expected two different rates between 0 and 1; got {rate} and {other}.")
    if not 0 < power < 1:
        raise ConfigError(f"power must be between 0 and 1; got {power}.")
    mean = (rate + other) / 2
    under_equality = _quantile(confidence) * math.sqrt(2 * mean * (1 - mean))
    under_difference = _NORMAL.inv_cdf(power) * math.sqrt(rate * (1 - rate) + other * (1 - other))
    return math.ceil(((under_equality + under_difference) / (rate - other)) ** 2)


def _quantile(confidence: float) -> float:
    """Return the two-sided quantile of the normal distribution."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, such as 0.95; got {confidence}.")
    return _NORMAL.inv_cdf((1 + confidence) / 2)


def _wilson(rate: float, num_trials: int, z: float) -> tuple[float, float]:
    """Return the middle and the half width of Wilson's interval."""
    shrink = 1 + z * z / num_trials
    middle = (rate + z * z / (2 * num_trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / num_trials + z * z / (4 * num_trials**2))
    return middle, half


def _resamples(num: int, num_resamples: int, generator: np.random.Generator) -> Iterator[Array]:
    """Yield indices `[R, num]` of resamples, `num_resamples` in all."""
    step = max(1, _BLOCK // num)
    for start in range(0, num_resamples, step):
        yield generator.integers(0, num, size=(min(step, num_resamples - start), num))


def _bca_levels(observed: Array, resampled: Array, statistic: Statistic, tails: Interval) -> list[float]:
    """Return which quantiles of the resampled statistic are the ends of the interval (Efron 1987, eq. 2.3)."""
    whole = statistic(observed[None])[0]
    below = float(((resampled < whole).mean() + (resampled <= whole).mean()) / 2)
    if not 0 < below < 1:
        return list(tails)
    bias = _NORMAL.inv_cdf(below)
    left_out = np.array([statistic(np.delete(observed, row)[None])[0] for row in range(len(observed))])  # jackknife
    spread = left_out.mean() - left_out
    cubes, squares = float((spread**3).sum()), float((spread**2).sum())
    acceleration = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    shifted = [bias + _NORMAL.inv_cdf(tail) for tail in tails]
    return [_NORMAL.cdf(bias + shift / (1 - acceleration * shift)) for shift in shifted]


def _pairs(
    first: Sequence[float] | Array, second: Sequence[float] | Array, dtype: np.dtype[Any]
) -> tuple[Array, Array]:
    before, after = np.asarray(first, dtype=dtype), np.asarray(second, dtype=dtype)
    if before.ndim != 1 or before.shape != after.shape or len(before) == 0:
        raise DataError(
            f"A paired comparison needs one value [n] per episode of both policies, on the same seeds; got shapes "
            f"{before.shape} and {after.shape}."
        )
    return before, after


def _effect_size(differences: Array) -> float:
    """Return the mean in deviations (of the sample, n - 1)."""
    deviation = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return float(differences.mean()) / deviation if deviation > 0 else math.nan


def _coin_p_value(num_heads: int, num_tosses: int) -> float:
    """Return the two-sided p-value of so many heads of a fair coin."""
    fewer = min(num_heads, num_tosses - num_heads)
    tail = sum(math.comb(num_tosses, count) for count in range(fewer + 1))
    p_value: float = 2 * tail / 2**num_tosses
    return min(1.0, p_value)


def _sign_p_value(differences: Array, seed: int) -> float:
    num = len(differences)
    found: float = abs(float(differences.sum())) * (
        1 - 1e-12
    )  # sums of the same numbers in another order may differ in the last bit
    if num <= _MAX_EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=num)))  # [2 ** n, n]
        return float(np.mean(np.abs(signs @ differences) >= found))
    generator, as_large = np.random.default_rng(seed), 0
    step = max(1, _BLOCK // num)
    for start in range(0, NUM_RESAMPLES, step):
        signs = generator.integers(0, 2, size=(min(step, NUM_RESAMPLES - start), num)) * 2.0 - 1.0
        as_large += int((np.abs(signs @ differences) >= found).sum())
    return (as_large + 1) / (NUM_RESAMPLES + 1)  # the signs as they are count as one
