"""What agents that obey commands have to show, and their shields: from plain numbers to what `page.py` lays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from worldline.episode import Array
from worldline.report.field import Field
from worldline.report.svg import LineChart, Series

_COLORS = ("accent", "second", "third", "true")
_NATS = 8.0  # below the greatest log-density, there is no shade any more

Interval = tuple[float, float]


def obedience_chart(
    what: str,
    told: Sequence[float],
    done: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Interval]],
) -> LineChart:
    """Return what was done over what was told, with the line on which they are equal.

    Args:
        what: "return" or "steps".
        told: `[C]`, of each command.
        done: `[C]` means, by the name of who was told.
        intervals: Of these means.
    """
    series = [
        Series(
            name=name,
            x=told,
            y=means,
            color=_COLORS[number % len(_COLORS)],
            has_line=False,
            intervals=intervals[name],
        )
        for number, (name, means) in enumerate(done.items())
    ]
    ends = [min(told), max(told)]
    return LineChart(
        title=f"Desired and obtained {what}",
        series=[Series(name="as told", x=ends, y=ends, color="muted", is_dashed=True), *series],
        x_label=f"{what} that was asked for",
        y_label=f"mean {what} obtained",
        width=480,
        height=340,
    )


def calibration_chart(curves: Mapping[str, Sequence[tuple[float, float, Interval]]]) -> LineChart:
    """Return the measured rate of false alarms over the rate that was asked for.

    Args:
        curves: By the name of the shield: alpha, rate and its interval, of each point.
    """
    alphas = [alpha for points in curves.values() for alpha, _, _ in points]
    series = [
        Series(
            name=name,
            x=[alpha for alpha, _, _ in points],
            y=[rate for _, rate, _ in points],
            color=_COLORS[number % len(_COLORS)],
            intervals=[interval for _, _, interval in points],
        )
        for number, (name, points) in enumerate(curves.items())
    ]
    ends = [0.0, max(alphas)]
    return LineChart(
        title="False alarms on held-out episodes",
        series=[Series(name="as asked", x=ends, y=ends, color="muted", is_dashed=True), *series],
        x_label="alpha that was asked for",
        y_label="share that is flagged",
        width=860,
        height=300,
    )


def command_map_chart(
    title: str,
    *,
    steps: Array,
    returns: Array,
    log_density: Array,
    excess: Array,
    points: Mapping[str, tuple[float, float]],
) -> LineChart:
    """Return the density of commands in one state, the boundary of what the shield allows, and single commands.

    Args:
        title: Which state.
        steps: `[X]`, rising.
        returns: `[Y]`, rising.
        log_density: `[X, Y]` in nats.
        excess: `[X, Y]`, at most 0 where a command is allowed.
        points: Commands (steps, return) by their names; one that is beyond the chart is put at its edge, and says so.
    """
    finite = np.nan_to_num(log_density, nan=-np.inf, posinf=np.finfo(np.float32).max)
    shades = 1.0 + (finite - finite.max()) / _NATS
    return LineChart(
        title=title,
        series=[
            _point(name, point, steps, returns, color)
            for (name, point), color in zip(points.items(), ("second", "third", "true"), strict=False)
        ],
        x_label="horizon (steps)",
        y_label="return",
        field=Field(
            x=steps, y=returns, shades=shades, heights=excess, name="density", boundary_name="boundary of the allowed"
        ),
        width=480,
        height=380,
    )


def _point(name: str, point: tuple[float, float], steps: Array, returns: Array, color: str) -> Series:
    x, y = (float(np.clip(value, axis[0], axis[-1])) for value, axis in zip(point, (steps, returns), strict=True))
    beyond = "" if (x, y) == point else f" ({point[0]:.0f}, {point[1]:.0f}), beyond the chart"
    return Series(name=name + beyond, x=[x], y=[y], color=color)
