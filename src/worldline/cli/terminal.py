"""What the commands show: results on standard output, everything on the way to them on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from worldline.episode import Episode

_FULL_WIDTH = 1000  # of what is no terminal
_NUMBERS = 40  # letters of a line of progress for return and times; the label and the bar have the others
_LEAST_LABEL, _LEAST_BAR, _LONGEST_BAR = 12, 6, 40

results = Console(highlight=False)
progress = Console(stderr=True, highlight=False)


def print_table(table: Table) -> None:
    """Print a table: no wider than a terminal; in full into a file or a pipe, where nobody can make room."""
    if results.is_terminal:
        results.print(table)
    else:
        Console(highlight=False, width=_FULL_WIDTH).print(table)


@contextlib.contextmanager
def episode_progress(label: str, num_episodes: int) -> Iterator[Callable[[Episode], None]]:
    """Show a bar for `num_episodes` and yield what `collect_episodes` calls with each of them."""
    numbers = _NUMBERS + 2 * len(str(num_episodes))
    room = max(_LEAST_LABEL, progress.width - numbers - _LEAST_BAR)
    shown = label if len(label) <= room else f"{label[: room - 1]}…"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(min(_LONGEST_BAR, max(_LEAST_BAR, progress.width - numbers - len(shown)))),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    total_return, num_done = 0.0, 0
    with Progress(*columns, console=progress) as bar:
        task = bar.add_task(escape(shown), total=num_episodes, note="")

        def on_episode(episode: Episode) -> None:
            nonlocal total_return, num_done
            total_return += float(episode.rewards.sum())
            num_done += 1
            bar.update(task, advance=1, note=f"mean return {total_return / num_done:.1f}")

        yield on_episode


@contextlib.contextmanager
def step_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what is to be called with how much is done and how much there is; its first call shows a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=progress)
    task = bar.add_task(label, total=None)

    def on_progress(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield on_progress
    finally:
        if bar.live.is_started:
            bar.stop()


def describe_duration(seconds: float) -> str:
    """Write a duration as people say it.

    >>> describe_duration(4.26), describe_duration(75), describe_duration(372), describe_duration(8100)
    ('4.3 s', '75 s', '6.2 min', '2.2 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_interval(interval: Sequence[float] | None) -> str:
    """Write a 95% confidence interval; a single episode has None.

    >>> describe_interval((371.2, 453.0))
    '95% interval 371.2 to 453.0'
    """
    return f"95% interval {interval[0]:.1f} to {interval[1]:.1f}" if interval else "one episode has no interval"


def describe_ratio(ours: float, theirs: float) -> str:
    """Write one error as a part of another one, which may be none.

    >>> describe_ratio(0.3, 1.5), describe_ratio(0.3, 0.0)
    ('20.0%', '-')
    """
    return f"{ours / theirs:.1%}" if theirs else "-"
