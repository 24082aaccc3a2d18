"""`worldline convert`: data of one format into another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from worldline.cli.options import parse

_DESCRIPTION = """\
Write data of any format that is read in any that is written. The suffix of DST says which: .npz, .h5 and .hdf5 (one
group per episode), .zarr; none is a folder of memory-mapped columns, which may be larger than memory.

Examples:
  worldline convert reach.h5 reach
  worldline convert can_ph.hdf5 can
  worldline convert cartpole.npz cartpole.hdf5 --format robomimic
  worldline convert lerobot/pusht pusht --obs-keys state image
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of `worldline convert`."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """A file or folder with episodes."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """What to write; it must not exist."""
    format: str | None = None
    """columns, hdf5, robomimic, d4rl, zarr or npz; without it the suffix of DST decides."""
    obs_keys: tuple[str, ...] = ()
    """The observations to write; none named means all. Videos that are not wanted are not decoded."""
    max_bytes: int | None = None
    """The most that the arrays of SRC may take, where its format's own limit refuses a file that you trust."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ConvertOptions, arguments, command="convert", description=_DESCRIPTION)
    from worldline.cli.terminal import results, step_progress
    from worldline.data.formats.catalog import detect_format, format_to_write
    from worldline.data.loading import convert

    source, destination = options.source.expanduser(), options.destination.expanduser()
    name = format_to_write(destination, options.format)
    with step_progress(f"Reading {source}") as on_episodes:
        num_episodes, num_steps = convert(
            source,
            destination,
            name,
            obs_keys=options.obs_keys or None,
            max_bytes=options.max_bytes,
            on_episodes=on_episodes,
        )
    results.print(
        f"Wrote {num_episodes:,} episodes, {num_steps:,} steps from {source} ({detect_format(source)}) to "
        f"{destination} ({name})",
        soft_wrap=True,
        markup=False,
    )
