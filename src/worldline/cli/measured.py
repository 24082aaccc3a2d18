"""What policies achieved, as numbers and as rows of text, for the terminal and for reports."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from worldline.evaluation.rollout import EvaluationResult
from worldline.evaluation.statistics import mean_interval95, wilson_interval

OBEDIENCE = ("told", "mean done", "95% interval", "mean distance")  # the columns of `obedience_texts`
_MAX_NAME = 24  # letters of a policy's name that a table has room for in one line


def interval_or_none(result: EvaluationResult) -> list[float] | None:
    """Return the 95% interval of the mean as JSON knows it: None where a single episode has none."""
    return finite_or_none(result.interval95)


def interval_text(interval: Sequence[float] | None, spec: str = ".1f") -> str:
    """Write an interval, each end by a format specification; "-" where there is none.

    >>> interval_text((0.25, 0.5), ".0%"), interval_text((float("nan"), float("nan"))), interval_text(None)
    ('25% to 50%', '-', '-')
    """
    if interval is None or finite_or_none(interval) is None:
        return "-"
    return f"{interval[0]:{spec}} to {interval[1]:{spec}}"


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
    for name in ("", *OBEDIENCE):
        table.add_column(name, justify="right" if name else "left")
    for what, texts in obedience_texts(command, result).items():
        table.add_row(what, *texts)
    return table


def obedience_texts(command: tuple[float, float], result: EvaluationResult) -> dict[str, tuple[str, str, str, str]]:
    """Return what `OBEDIENCE` names, of "steps" and of "return", for the terminal and for reports."""
    both = {"steps": (command[0], result.lengths), "return": (command[1], result.returns)}
    return {
        what: (
            f"{told:.1f}",
            f"{statistics.fmean(done):.1f}",
            interval_text(mean_interval95(done)),
            f"{statistics.fmean(abs(value - told) for value in done):.1f}",
        )
        for what, (told, done) in both.items()
    }


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
    interval = interval_text(result.interval95)
    found = {"mean return": f"{result.mean:.1f}" + (f" ({interval})" if interval != "-" else "")}
    for name, values in result.outcomes.items():
        low, high = wilson_interval(sum(values), len(values))
        found[name] = f"{statistics.fmean(values):.0%} ({100 * low:.0f} to {100 * high:.0f})"
    return found


def _columns(result: EvaluationResult) -> dict[str, str]:
    rate = result.success_rate
    return {
        "success": "-" if rate is None else f"{rate:.1%}",
        "its interval": interval_text(result.success_interval95, ".1%"),
        "mean return": f"{result.mean:.1f}",
        "std": f"{result.std:.1f}",
        "95% interval": interval_text(result.interval95),
        "min": f"{min(result.returns):.1f}",
        "max": f"{max(result.returns):.1f}",
        "mean length": f"{statistics.fmean(result.lengths):.1f}",
    }
