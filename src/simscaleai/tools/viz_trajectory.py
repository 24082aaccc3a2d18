"""`simscale viz-trajectory`: one episode of a data set, plotted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldline.cli.options import parse
from worldline.errors import DataError

if TYPE_CHECKING:
    from worldline.episode import Array
    from worldline.report.svg import LineChart

_MAX_LINES = 8  # of one chart
_DESCRIPTION = """\
Plot one episode of a data set: its observations, actions and rewards, step by step.

Example:
  simscale viz-trajectory data/reach.h5 --episode 3 --out episode.html
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VizTrajectoryOptions:
    """Options of `simscale viz-trajectory`."""

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """A file with episodes."""
    episode: int = 0
    """Its number, from 0."""
    out: Path = Path("trajectory.html")
    """The page to write."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(
        VizTrajectoryOptions, arguments, command="viz-trajectory", description=_DESCRIPTION, program="simscale"
    )
    from worldline.cli.inspect_data import film_strips
    from worldline.cli.reporting import footer
    from worldline.cli.terminal import results
    from worldline.report.page import Figure, Page, Section, Tile, write

    columns, language = _read(options.dataset.expanduser(), options.episode)
    tiles = [
        Tile(label="Return", value=f"{columns['rewards'].sum():.4g}", is_main=True),
        Tile(label="Steps", value=f"{len(columns['rewards']):,}"),
    ]
    if language:
        tiles.append(Tile(label="Instruction", value=language))
    caption = f"Lines are the components of a vector, by their numbers; of long ones the first {_MAX_LINES}."
    pictures = film_strips(columns)
    page = Page(
        title=f"Episode {options.episode} of {options.dataset.name}",
        summary=f"One of the episodes of {options.dataset}.",
        tiles=tiles,
        sections=[
            *([Section(title="Pictures", pictures=pictures)] if pictures else []),
            Section(title="Steps", figures=[Figure(charts=list(_charts(columns)), caption=caption)]),
        ],
        footer=footer(),
    )
    results.print(f"Wrote {write(page, options.out)}", soft_wrap=True)


def _read(path: Path, number: int) -> tuple[dict[str, Array], str]:
    """Return the columns of an episode by name, and its instruction."""
    from worldline.data.formats.catalog import read_recording

    with read_recording(path) as recording:
        if not 0 <= number < recording.num_episodes:
            raise DataError(f"{path} has episodes 0 to {recording.num_episodes - 1}; got {number}.")
        for block in recording.checked_blocks():
            if number >= len(block.ends):
                number -= len(block.ends)
                continue
            rows = slice(block.ends[number - 1] if number else 0, block.ends[number])
            columns = {"actions": block.actions, "rewards": block.rewards, **block.obs}
            language = str(block.meta[number].get("language", ""))
            return {name: column[rows] for name, column in columns.items()}, language
    raise AssertionError(f"{path} ends before episode {number}")


def _charts(columns: Mapping[str, Array]) -> Iterator[LineChart]:
    from worldline.episode import is_image
    from worldline.report.svg import COLORS, LineChart, Series

    for name, column in columns.items():
        if is_image(column.shape[1:]):
            continue
        steps = list(range(len(column)))
        rows = column.reshape(len(column), -1)[:, :_MAX_LINES]
        series = [
            Series(
                name=str(index),
                x=steps,
                y=values.tolist(),
                color=COLORS[index % len(COLORS)],
                is_dashed=index >= len(COLORS),
            )
            for index, values in enumerate(rows.T)
        ]
        yield LineChart(title=name.removeprefix("obs."), series=series, x_label="step", width=480)
