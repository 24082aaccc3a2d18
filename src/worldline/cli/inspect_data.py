"""What `worldline inspect` shows of data: tables on the terminal, and a report with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldline.data.formats.recording import Recording
    from worldline.data.summary import ColumnSummary, Summary
    from worldline.episode import Array
    from worldline.report.page import Picture

MAX_COMPONENTS = 8  # rows of a vector that are listed one by one
_MAX_LANGUAGES = 20
_INDENT = "\u2002"  # a space that HTML keeps
_NUM_FRAMES, _STRIP_HEIGHT = 8, 128  # of the pictures of an episode

Rows = list[tuple[str, ...]]


def summary_rows(path: Path, name: str, recording: Recording, found: Summary) -> Rows:
    """Return what there is to say of a data set, as names and values."""
    from worldline.files import total_size
    from worldline.statistics import is_out_of_range

    spec = recording.spec
    rows: Rows = [
        ("format", name),
        ("size", f"{total_size(path):,} bytes"),
        ("episodes", f"{len(found.lengths):,}"),
        ("steps", f"{int(found.lengths.sum()):,}"),
        ("length", _spread(found.lengths)),
        ("return", _spread(found.returns)),
        ("ended", _endings(found)),
        ("final observations", f"{int(found.has_final_obs.sum()):,} episodes"),
        ("actions", f"{spec.action_type}, {spec.action_dim} wide"),
    ]
    actions = found.columns["actions"]
    if spec.action_type == "continuous" and (beyond := int(is_out_of_range(actions.low, actions.high).sum())):
        rows.append(("out of range", f"{beyond:,} of the actions leave [-1, 1]: see convert --scale-actions"))
    if found.environments:
        rows.append(("environment", ", ".join(found.environments)))
    if found.languages:
        rows.append(("instructions", f"{len(found.languages):,} different, {sum(found.languages.values()):,} episodes"))
    if found.num_orphan_rows:
        rows.append(("orphan rows", f"{found.num_orphan_rows:,} that belong to no episode, left out"))
    if recording.left_out:
        rows.append(("not read", ", ".join(recording.left_out)))
    if bad := _num_bad(found):
        rows.append(("not finite", f"{bad:,} numbers are NaN or infinite: training refuses this data"))
    return rows


def columns_header(found: Summary) -> tuple[str, ...]:
    """Return the header of `column_rows`: what is not finite is counted where there is any."""
    return ("name", "shape", "dtype", "min", "mean", "max", *(("not finite",) if _num_bad(found) else ()))


def column_rows(found: Summary) -> Rows:
    """Return every column, and each component of short vectors."""
    rows: Rows = []
    for name, column in found.columns.items():
        bad = (f"{column.num_not_finite:,}",) if _num_bad(found) else ()
        rows.append((name, str(column.shape), str(column.dtype), *_range(column), *bad))
        if len(column.shape) == 1 and 1 < column.shape[0] <= MAX_COMPONENTS:
            parts = zip(column.low, column.mean, column.high, strict=True)
            rows += [
                (f"  [{index}]", "", "", *(f"{value:.4g}" for value in part), *("" for _ in bad))
                for index, part in enumerate(parts)
            ]
    return rows


def film_strips(obs: Mapping[str, Array]) -> list[Picture]:
    """Return some frames side by side of every observation `[T, *obs]` that is an image in colour or grey."""
    import numpy as np

    from worldline.episode import is_channels_first, is_image
    from worldline.evaluation.video import film_strip
    from worldline.report.page import Picture

    pictures: list[Picture] = []
    for name, column in obs.items():
        shape = column.shape[1:]
        if column.dtype != np.uint8 or not is_image(shape):
            continue
        frames = np.moveaxis(column, 1, -1) if is_channels_first(shape) else column
        if frames.shape[-1] in (1, 3):
            coloured = np.broadcast_to(frames, (*frames.shape[:-1], 3))
            strip = film_strip(coloured, num_frames=_NUM_FRAMES, height=_STRIP_HEIGHT)
            times = max(1, _STRIP_HEIGHT // len(strip))  # small ones are enlarged
            caption = f"{name.removeprefix('obs.')}, at even distances from the first step to the last."
            pictures.append(Picture(image=strip.repeat(times, axis=0).repeat(times, axis=1), caption=caption))
    return pictures


def write_report(out: Path, path: Path, facts: Rows, found: Summary, recording: Recording) -> Path:
    """Write a page with the same tables, plots of lengths and returns, and pictures of the first episode."""
    from worldline.cli.reporting import footer
    from worldline.report.figures import returns_by_rank
    from worldline.report.page import Figure, Page, Section, Table, Tile, write
    from worldline.report.svg import LineChart, Series

    tiles = [
        Tile(label="Episodes", value=f"{len(found.lengths):,}", is_main=True),
        Tile(label="Steps", value=f"{int(found.lengths.sum()):,}"),
        Tile(label="Mean return", value=f"{found.returns.mean():.4g}"),
        Tile(label="Mean length", value=f"{found.lengths.mean():.4g}"),
    ]
    numbers = list(range(len(found.lengths)))
    charts = [
        LineChart(title=title, series=[Series(name=title, x=numbers, y=values.tolist())], x_label="episode", width=480)
        for title, values in (("length", found.lengths), ("return", found.returns))
    ]
    rows = [(name.replace(" ", _INDENT), *rest) for name, *rest in column_rows(found)]
    tables = [Table(title="", header=columns_header(found), rows=rows)]
    if found.languages:
        most = [(language, f"{count:,}") for language, count in list(found.languages.items())[:_MAX_LANGUAGES]]
        tables.append(Table(title="Instructions", header=("instruction", "episodes"), rows=most))
    first = next(recording.blocks())
    pictures = film_strips({name: column[: first.ends[0]] for name, column in first.obs.items()})
    page = Page(
        title=f"Data: {path.name}",
        summary=f"What is in {path}.",
        tiles=tiles,
        sections=[
            Section(title="Summary", tables=[Table(title="", rows=facts)]),
            Section(
                title="Episodes",
                figures=[
                    returns_by_rank({"return": found.returns.tolist()}),
                    Figure(charts=charts, caption="In the order of the file."),
                ],
            ),
            *([Section(title="Pictures of the first episode", pictures=pictures)] if pictures else []),
            Section(title="Columns", tables=tables),
        ],
        footer=footer(),
    )
    return write(page, out)


def _num_bad(found: Summary) -> int:
    return sum(column.num_not_finite for column in found.columns.values())


def _spread(values: Array) -> str:
    return f"{values.min():,.4g} to {values.max():,.4g}, mean {values.mean():,.4g}"


def _range(column: ColumnSummary) -> Sequence[str]:
    import numpy as np

    values = np.nanmin(column.low), np.nanmean(column.mean), np.nanmax(column.high)
    return [f"{value:.4g}" for value in values]


def _endings(found: Summary) -> str:
    terminated = int(found.terminated.sum())
    truncated = int((found.truncated & ~found.terminated).sum())
    neither = len(found.lengths) - terminated - truncated
    parts = [f"{terminated:,} terminated", f"{truncated:,} truncated"]
    return ", ".join(parts + ([f"{neither:,} broken off"] if neither else []))
