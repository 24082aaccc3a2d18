"""What a run has to show, as figures and tables: from plain numbers to what `page.py` lays out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from worldline.episode import Array
from worldline.report.axes import format_number
from worldline.report.page import Figure, Table
from worldline.report.svg import COLORS, LineChart, Series

# What a line says of the machine and of the clock, in the order in which it is drawn, and what is not drawn at all.
_MACHINE = ("steps_per_second", "data_wait", "memory_mb", "device_memory_mb")
_NOT_DRAWN = {"step", "learning_rate", "rows_per_second", "train_seconds"}  # rows are steps times a constant
_MAX_CURVES = 24
_EVALUATION = "eval/"  # what the logs put before results of evaluations
_SMALL: dict[str, Any] = {"width": 260, "height": 170}


def learning_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Return one small chart per metric over optimiser steps; what `machine_curves` draws is left out.

    A metric that evaluations have as well, as on data that was held out, has both lines in its chart.

    Args:
        rows: Lines of `metrics.jsonl`, each with "step"; a metric may be missing from some of them.
    """
    found = _losses(rows)
    names = [name for name in found if not name.startswith(_EVALUATION) or name.removeprefix(_EVALUATION) not in found]
    charts = [_with_evaluation(name, rows) for name in names[:_MAX_CURVES]]
    return Figure(charts=charts, caption=f"Each point is one logged step.{_left_out(names)}")


def compared_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Return one chart per metric, with a line for each run that has it; first those that several runs have.

    Args:
        runs: Lines of `metrics.jsonl` by the name of the run; up to eight can be told apart.
    """
    having = {run: {name for row in rows for name in row} for run, rows in runs.items()}
    names = sorted(
        _losses([row for rows in runs.values() for row in rows]),
        key=lambda name: sum(name in of_run for of_run in having.values()) < 2,
    )
    charts = []
    for name in names[:_MAX_CURVES]:
        chart = dataclasses.replace(_curve(name, runs), width=430, height=270)
        if len(runs) > 1 and len(chart.series) == 1:  # a line by itself has no legend
            chart = dataclasses.replace(chart, title=f"{chart.title} ({chart.series[0].name})")
        charts.append(chart)
    return Figure(charts=charts, caption=f"Each point is one logged step.{_left_out(names)}")


def machine_curves(rows: Sequence[Mapping[str, float]]) -> Figure | None:
    """Return charts of the throughput, the share of time spent waiting for data, and memory; None without any."""
    names = dict.fromkeys([*_MACHINE, *(name for row in rows for name in row if _is_machine(name))])
    charts = [_curve(name, {name: rows}) for name in names if any(name in row for row in rows)]
    return Figure(charts=charts) if charts else None


def returns_by_rank(groups: Mapping[str, Sequence[float]], *, num_coloured: int = 1) -> Figure:
    """Return the episodes' returns of each group (policy), sorted from worst to best.

    Args:
        groups: Returns by the policy's name.
        num_coloured: How many of them, from the first, have colours; the others are yardsticks, grey and dashed.
    """
    series = [
        Series(
            name=name,
            x=list(range(1, len(returns) + 1)),
            y=sorted(returns),
            color=COLORS[index % len(COLORS)] if index < num_coloured else "muted",
            is_dashed=index >= num_coloured,
        )
        for index, (name, returns) in enumerate(groups.items())
    ]
    chart = LineChart(
        title="Return of each episode, sorted",
        series=series,
        x_label="episode, from worst to best",
        y_label="return",
        width=860,
        height=280,
    )
    return Figure(charts=[chart])


def open_loop_curves(
    model: Sequence[float],
    copy: Sequence[float],
    *,
    model_normalised: Sequence[float],
    copy_normalised: Sequence[float],
) -> Figure:
    """Return two charts of error over the horizon 1 .. H: in raw units, and in variances of each component."""
    horizons = list(range(1, len(model) + 1))

    def chart(title: str, y_label: str, ours: Sequence[float], theirs: Sequence[float]) -> LineChart:
        return LineChart(
            title=title,
            series=[
                Series(name="world model", x=horizons, y=ours),
                Series(name="copy the last observation", x=horizons, y=theirs, color="muted", is_dashed=True),
            ],
            x_label="steps imagined ahead",
            y_label=y_label,
            is_log=True,
            width=480,
            height=310,
        )

    return Figure(
        charts=[
            chart("Mean squared error", "squared error (log)", model, copy),
            chart("Relative to the variance of the data", "error / variance (log)", model_normalised, copy_normalised),
        ],
        caption=(
            "Lower is better. Relative to the variance every component counts the same, and 1 is as good as guessing "
            "the mean."
        ),
    )


def trajectories(actual: Array, imagined: Array, *, names: Sequence[str]) -> list[Figure]:
    """Return one figure per window, with one small chart per observation component.

    Args:
        actual: `[N, C + H, D]`, what happened.
        imagined: `[N, H, D]`, what the model imagined after the first C rows.
        names: What the D components are called; as many of them are drawn.
    """
    context = actual.shape[1] - imagined.shape[1]
    figures = []
    for number, (real, dream) in enumerate(zip(actual, imagined, strict=True), start=1):
        charts = []
        for component, name in enumerate(names):
            joined = [
                float(real[context - 1, component]),
                *dream[:, component].tolist(),
            ]  # begins where it branches off
            series = [
                Series(name="real", x=list(range(len(real))), y=real[:, component].tolist(), color="true"),
                Series(name="imagined", x=list(range(context - 1, len(real))), y=joined, is_dashed=True),
            ]
            charts.append(
                LineChart(
                    title=f"Window {number}: {name}",
                    series=series,
                    x_label="step of the window",
                    marker=context - 1,
                    **(_SMALL | {"height": 190}),
                )
            )
        figures.append(Figure(charts=charts))
    return figures


def settings_table(title: str, settings: Mapping[str, Any], *, is_folded: bool = False) -> Table:
    """Return names and values of a configuration."""
    rows = [(name, _written(value)) for name, value in settings.items()]
    return Table(title=title, rows=rows, is_folded=is_folded)


def horizon_table(model: Sequence[float], copy: Sequence[float], num_windows: Sequence[int]) -> Table:
    """Return the numbers behind `open_loop_curves`, folded."""
    rows = [
        (str(horizon), f"{ours:.4g}", f"{theirs:.4g}", f"{ours / theirs:.3f}" if theirs else "", f"{count:,}")
        for horizon, (ours, theirs, count) in enumerate(zip(model, copy, num_windows, strict=True), start=1)
    ]
    header = ("Steps ahead", "World model", "Copy", "Ratio", "Windows")
    return Table(title="The numbers", rows=rows, header=header, is_folded=True)


def _curve(name: str, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> LineChart:
    """Return a small chart of a metric over optimiser steps, with a line for each of the `runs` that has it."""
    series = []
    for number, (label, rows) in enumerate(runs.items()):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            color, is_dashed = COLORS[number % len(COLORS)], number >= len(COLORS)
            x, y = [step for step, _ in points], [value for _, value in points]
            series.append(Series(name=label, x=x, y=y, color=color, is_dashed=is_dashed))
    return LineChart(title=_readable(name), series=series, x_label="optimiser step", **_SMALL)


def _with_evaluation(name: str, rows: Sequence[Mapping[str, float]]) -> LineChart:
    """Return the chart of a metric, with a second line where evaluations have it as well."""
    chart, evaluated = _curve(name, {"training": rows}), _curve(_EVALUATION + name, {"evaluation": rows})
    if not evaluated.series:
        return chart
    second = dataclasses.replace(evaluated.series[0], color=COLORS[1])
    return dataclasses.replace(chart, series=[*chart.series, second])


def _losses(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the metrics to draw: "loss" first, the others as they come."""
    names = dict.fromkeys(name for row in rows for name in row if name not in _NOT_DRAWN and not _is_machine(name))
    return sorted(names, key=lambda name: name != "loss")


def _left_out(names: Sequence[str]) -> str:
    return f" {len(names) - _MAX_CURVES} more are in metrics.jsonl." if len(names) > _MAX_CURVES else ""


def _is_machine(name: str) -> bool:
    return name in _MACHINE or name.endswith("/steps_per_second")


def _readable(name: str) -> str:
    return name.replace("_mb", " (MB)").replace("_", " ").replace("/", ": ")


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_written(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_written(item)}" for key, item in value.items()) or "none"
    return str(value)
