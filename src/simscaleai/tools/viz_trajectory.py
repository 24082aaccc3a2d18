"""`simscale viz-trajectory`: one episode of a data set, plotted."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldline.cli.options import parse
from worldline.errors import DataError

if TYPE_CHECKING:
    from worldline.episode import Array, Episode
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
    from worldline.cli.reporting import footer
    from worldline.cli.terminal import results
    from worldline.report.page import Figure, Page, Section, Tile, write

    episode = _read(options.dataset, options.episode)
    tiles = [
        Tile(label="Return", value=f"{episode.rewards.sum():.4g}", is_main=True),
        Tile(label="Steps", value=f"{len(episode):,}"),
    ]
    if language := str(episode.meta.get("language", "")):
        tiles.append(Tile(label="Instruction", value=language))
    caption = "Lines are the components of a vector, by their numbers; x is the step."
    page = Page(
        title=f"Episode {options.episode} of {options.dataset.name}",
        summary=f"One of the episodes of {options.dataset}.",
        tiles=tiles,
        sections=[Section(title="Steps", figures=[Figure(charts=list(_charts(episode)), caption=caption)])],
        footer=footer(),
    )
    results.print(f"Wrote {write(page, options.out)}", soft_wrap=True)


def _read(path: Path, number: int) -> Episode:
    from simscaleai.training.data.dataset import read_episodes

    data = read_episodes(path)
    if not 0 <= number < data.num_episodes:
        raise DataError(f"{path} has episodes 0 to {data.num_episodes - 1}; got {number}.")
    return next(itertools.islice(data.episodes(), number, None))


def _charts(episode: Episode) -> Iterator[LineChart]:
    from worldline.episode import named_obs
    from worldline.report.svg import LineChart, Series

    columns: dict[str, Array] = {"actions": episode.actions, "rewards": episode.rewards, **named_obs(episode.obs)}
    steps = list(range(len(episode)))
    for name, column in columns.items():
        if column.ndim > 2:  # images
            continue
        rows = column.reshape(len(column), -1)[:, :_MAX_LINES]
        series = [Series(name=str(index), x=steps, y=values.tolist()) for index, values in enumerate(rows.T)]
        yield LineChart(title=name.removeprefix("obs."), series=series, x_label="step", width=480)
