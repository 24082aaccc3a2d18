"""Numbers that summarise several episodes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Two-sided 95% quantiles of Student's t for 1 to 30 degrees of freedom; beyond, Cornish and Fisher's expansion has an
# error below 1e-4.
_T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
_Z95 = 1.959964


def t_interval95(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% confidence interval of the mean of `values` by Student's t.

    The interval assumes that the mean is about normal, as it is for ten or more episodes; one value tells nothing
    about the spread and gives (-inf, inf).

    >>> low, high = t_interval95([1.0, 2.0, 3.0])  # 2 +- 4.3027 * 1 / sqrt(3)
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return -math.inf, math.inf
    half = _t95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def _t95(degrees: int) -> float:
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    return _Z95 + (_Z95**3 + _Z95) / (4 * degrees) + (5 * _Z95**5 + 16 * _Z95**3 + 3 * _Z95) / (96 * degrees**2)
