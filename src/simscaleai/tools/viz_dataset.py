"""`simscale viz-dataset`: what is in a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from worldline.cli.options import parse

_DESCRIPTION = """\
Show what is in a data set, and write a page with plots: `worldline inspect`.

Example:
  simscale viz-dataset data/reach.h5 --out reach.html
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VizDatasetOptions:
    """Options of `simscale viz-dataset`."""

    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")]
    """A file with episodes."""
    out: Path = Path("dataset.html")
    """The page to write."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(VizDatasetOptions, arguments, command="viz-dataset", description=_DESCRIPTION, program="simscale")
    from worldline.cli.inspect import show_data

    show_data(options.dataset.expanduser(), options.out)
