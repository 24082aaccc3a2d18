"""Scales of a chart: which numbers to mark, how to write them, where they lie."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps the numbers from `low` to `high` to positions from `start` to `end`, in pixels."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def position(self, value: float) -> float:
        """Return where `value` lies."""
        if self.is_log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            low, high = self.low, self.high
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def linear_axis(
    values: Sequence[float], *, start: float, end: float, num_ticks: int = 5, is_tight: bool = False
) -> Axis:
    """Return an axis for finite `values`, widened to round ticks unless it `is_tight`; ticks of counts are whole."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one number, but for rounding: give it room
        low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
    rough = (high - low) / max(1, num_ticks - 1)
    are_counts = all(value == round(value) for value in values)
    step = round_step(max(1.0, rough), leads=(1, 2, 5, 10)) if are_counts else round_step(rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    if is_tight:
        ticks = tuple(tick for tick in ticks if low - 1e-9 * step <= tick <= high + 1e-9 * step)
        return Axis(low=low, high=high, start=start, end=end, ticks=ticks)
    return Axis(low=ticks[0], high=ticks[-1], start=start, end=end, ticks=ticks)


def log_axis(values: Sequence[float], *, start: float, end: float) -> Axis:
    """Return a logarithmic axis for positive `values`: whole decades, or 1-2-5 steps where there are few of them."""
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    leads = (1, 2, 5) if len(decades) <= 3 else (1,)
    marks = [lead * 10.0**decade for decade in (*decades, decades[-1] + 1) for lead in leads]
    below = [mark for mark in marks if mark <= low * (1 + 1e-9)]
    above = [mark for mark in marks if mark >= high * (1 - 1e-9)]
    bottom, top = below[-1], above[0]
    if bottom == top:
        top = marks[marks.index(top) + 1]
    ticks = [mark for mark in marks if bottom <= mark <= top]
    stride = -(-len(ticks) // 7)  # at most seven, counted from the top
    return Axis(low=bottom, high=top, start=start, end=end, ticks=tuple(ticks[::-1][::stride][::-1]), is_log=True)


def round_step(rough: float, leads: Sequence[float] = (1, 2, 2.5, 5, 10)) -> float:
    """Return the smallest of `leads` times a power of ten that is at least `rough`.

    >>> [round_step(rough) for rough in (0.03, 0.7, 1.0, 1.2, 23, 480)]
    [0.05, 1.0, 1.0, 2.0, 25.0, 500.0]
    """
    power = 10.0 ** math.floor(math.log10(rough))
    return next(lead * power for lead in leads if lead * power >= rough * (1 - 1e-9))


def format_ticks(ticks: Sequence[float]) -> list[str]:
    """Write the numbers of an axis, each with as many digits as tell them all apart.

    >>> format_ticks([0.6929, 0.69295, 0.693])
    ['0.6929', '0.69295', '0.693']
    """
    for digits in range(4, 19):
        written = [format_number(tick, digits) for tick in ticks]
        if len(set(written)) == len(ticks):
            break
    return written


def format_number(value: float, digits: int = 4) -> str:
    """Write a number briefly.

    >>> [format_number(value) for value in (0, 0.05, 2.5, 475, 1500, 20000, 3e6, 0.00002, -0.1)]
    ['0', '0.05', '2.5', '475', '1,500', '20k', '3M', '2e-5', '−0.1']
    """
    size = abs(value)
    if size == 0:
        text = "0"
    elif size >= 1e6:
        text = f"{size / 1e6:.{digits}g}M" if size < 1e9 else _scientific(size, digits)
    elif size >= 1e4:
        text = f"{size / 1e3:.{digits}g}k"
    elif size >= 1e3:
        text = f"{size:,.{digits}g}" if size != round(size) else f"{size:,.0f}"
    elif size >= 1e-3:
        text = f"{size:.{digits}g}"
    else:
        text = _scientific(size, digits)
    return f"−{text}" if value < 0 else text


def _scientific(size: float, digits: int) -> str:
    mantissa, _, exponent = f"{size:.{digits - 2}e}".partition("e")
    return f"{float(mantissa):.{digits}g}e{int(exponent)}"
