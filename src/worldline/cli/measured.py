"""What policies achieved, as numbers and as rows of text, for the terminal and for reports."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from worldline.evaluation.rollout import EvaluationResult
from worldline.evaluation.statistics import mean_interval95, wilson_interval

_MAX_NAME = 24  # letters of a policy's name that a table has room for in one line


def interval_or_none(result: EvaluationResult) -> list[float] | None:
    """Return the 95% interval of the mean as JSON knows it: None where a single episode has none."""
    return finite_or_none(result.interval95)


def finite_or_none(interval: Sequence[float]) -> list[float] | None:
    """Return an interval as JSON knows it, None where it is not finite."""
    return list(interval) if all(map(math.isfinite, interval)) else None


def result_numbers(result: EvaluationResult) -> dict[str, Any]:
    """Return what a policy achieved as JSON has it; null where it cannot be said."""
    success = result.success_interval95
    return {
        "success_rate": result.success_rate,
        "success_interval95": None if success is None else list(success),
        "return_mean": result.mean,
        "return_std": result.std,
        "return_interval95": interval_or_none(result),
        "length_mean": statistics.fmean(result.lengths),
        "length_interval95": finite_or_none(result.length_interval95),
        "returns": list(result.returns),
        "lengths": list(result.lengths),
        **{
            name: None if values is None else list(values)
            for name, values in (
                ("successes", result.successes),
                ("crashes", result.crashes),
                ("timeouts", result.timeouts),
            )
        },
    }


def result_of_numbers(numbers: Mapping[str, Any]) -> EvaluationResult:
    """Return what `result_numbers` wrote.

    Raises:
        KeyError, TypeError: Something is missing, or of another type.
    """
    flags = {name: numbers[name] for name in ("successes", "crashes", "timeouts")}
    return EvaluationResult(
        returns=tuple(numbers["returns"]),
        lengths=tuple(numbers["lengths"]),
        **{name: None if values is None else tuple(values) for name, values in flags.items()},
    )


def returns_table(title: str, measured: Mapping[str, EvaluationResult]) -> Table:
    """Return the table of what each policy achieved."""
    table = Table(title=title)
    # A narrow terminal breaks headers before names and intervals.
    longest = max(map(len, measured), default=0)
    table.add_column("policy", overflow="fold", no_wrap=longest <= _MAX_NAME)
    header, rows = returns_rows(measured)
    for name in header:
        table.add_column(name, justify="right", no_wrap=name.endswith("interval"))
    table.show_lines = any("(" in cell for row in rows for cell in row)
    for name, row in zip(measured, rows, strict=True):
        table.add_row(name, *(cell.replace(" (", "\n").rstrip(")") for cell in row))  # the interval below its rate
    return table


def obedience_table(command: tuple[float, float], result: EvaluationResult) -> Table:
    """Return the table of what was told and what was done."""
    table = Table(title="Told and done")
    for name in ("", "told", "mean done", "95% interval", "mean distance"):
        table.add_column(name, justify="right" if name else "left")
    for name, told, done in (("steps", command[0], result.lengths), ("return", command[1], result.returns)):
        low, high = mean_interval95(done)
        table.add_row(
            name,
            f"{told:.1f}",
            f"{statistics.fmean(done):.1f}",
            f"{low:.1f} to {high:.1f}" if math.isfinite(low) else "-",
            f"{statistics.fmean(abs(value - told) for value in done):.1f}",
        )
    return table


def returns_rows(measured: Mapping[str, EvaluationResult]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a table of what policies achieved, as text.

    Where the environment speaks of success, that comes first, and the spread of the returns gives way to it; where it
    speaks of crashes, all outcomes take the place of spread and length, and intervals are in brackets.
    """
    columns = [_columns(result) for result in measured.values()]
    names = ["mean return", "std", "95% interval", "min", "max", "mean length"]
    if any(result.outcomes for result in measured.values()):
        outcomes = dict.fromkeys(name for result in measured.values() for name in result.outcomes)
        names = ["mean return", *outcomes]
        columns = [{**column, **_outcomes(result)} for column, result in zip(columns, measured.values(), strict=True)]
    elif any(result.successes is not None for result in measured.values()):
        names = ["success", "its interval", "mean return", "95% interval", "mean length"]
    return names, [[column.get(name, "-") for name in names] for column in columns]


def _outcomes(result: EvaluationResult) -> dict[str, str]:
    """Return mean return and the rate of each outcome, each with its interval."""
    interval = interval_or_none(result)
    found = {"mean return": f"{result.mean:.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")}
    for name, values in result.outcomes.items():
        low, high = wilson_interval(sum(values), len(values))
        found[name] = f"{statistics.fmean(values):.0%} ({100 * low:.0f} to {100 * high:.0f})"
    return found


def _columns(result: EvaluationResult) -> dict[str, str]:
    interval, rate, success = interval_or_none(result), result.success_rate, result.success_interval95
    return {
        "success": "-" if rate is None else f"{rate:.1%}",
        "its interval": "-" if success is None else f"{success[0]:.1%} to {success[1]:.1%}",
        "mean return": f"{result.mean:.1f}",
        "std": f"{result.std:.1f}",
        "95% interval": f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "-",
        "min": f"{min(result.returns):.1f}",
        "max": f"{max(result.returns):.1f}",
        "mean length": f"{statistics.fmean(result.lengths):.1f}",
    }
