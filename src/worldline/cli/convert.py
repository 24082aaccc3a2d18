"""`worldline convert`: data of one format into another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldline.cli.options import parse
from worldline.errors import ConfigError

if TYPE_CHECKING:
    from worldline.data.formats.scaled import ActionBounds

_DESCRIPTION = """\
Write data of any format that is read in any that is written. The suffix of DST says which: .npz, .h5 and .hdf5 (one
group per episode), .zarr; none is a folder of memory-mapped columns, which may be larger than memory.

Examples:
  worldline convert reach.h5 reach
  worldline convert can_ph.hdf5 can
  worldline convert cartpole.npz cartpole.hdf5 --format robomimic
  worldline convert lerobot/pusht pusht --obs-keys state image --scale-actions 0 512
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
    scale_actions: tuple[str, ...] | None = None
    """Take continuous actions in units of their own (pixels, degrees) to [-1, 1], where policies act: from LOW HIGH of
    all of them, from LOW HIGH LOW HIGH ... of each, from the range of an environment's actions (its id), or from that
    of the "data"."""
    max_bytes: int | None = None
    """The most that the arrays of SRC may take, where its format's own limit refuses a file that you trust."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ConvertOptions, arguments, command="convert", description=_DESCRIPTION)
    from worldline.cli.terminal import progress, results, step_progress
    from worldline.data.formats.catalog import detect_format, format_to_write
    from worldline.data.loading import action_bounds_of, check_destination, convert

    source, destination = options.source.expanduser(), options.destination.expanduser()
    name = format_to_write(destination, options.format)
    check_destination(destination)
    bounds = None
    if options.scale_actions == ("data",):
        progress.print(f"Looking for the range of the actions of {source}", soft_wrap=True, markup=False)
        bounds = action_bounds_of(source, max_bytes=options.max_bytes)
    elif options.scale_actions is not None:
        bounds = _bounds(options.scale_actions)
    with step_progress(f"Reading {source}") as on_episodes:
        num_episodes, num_steps = convert(
            source,
            destination,
            name,
            obs_keys=options.obs_keys or None,
            action_bounds=bounds,
            max_bytes=options.max_bytes,
            on_episodes=on_episodes,
        )
    results.print(
        f"Wrote {num_episodes:,} episodes, {num_steps:,} steps from {source} ({detect_format(source)}) to "
        f"{destination} ({name})",
        soft_wrap=True,
        markup=False,
    )
    if bounds is not None:
        low, high = (" ".join(f"{bound:.7g}" for bound in part.ravel()) for part in (bounds.low, bounds.high))
        results.print(
            f"Actions: {low} became -1, {high} became 1.",
            soft_wrap=True,
            markup=False,
        )


def _bounds(words: Sequence[str]) -> ActionBounds:
    """Return what numbers, or the id of an environment, mean after `--scale-actions`.

    Raises:
        ConfigError: It is neither numbers by twos nor the name of one thing, or that environment has discrete actions.
        DataError: A low bound is not below its high one.
    """
    import numpy as np

    from worldline.data.formats.scaled import ActionBounds

    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        numbers = np.array([])
    if len(numbers) == 2:
        return ActionBounds(low=numbers[0], high=numbers[1])
    if len(numbers) and len(numbers) % 2 == 0:
        return ActionBounds(low=numbers[::2], high=numbers[1::2])
    expected = (
        "--scale-actions takes LOW HIGH, as often as there are actions or once for all, or 'data', or the id of an "
        "environment"
    )
    if len(numbers) or len(words) != 1:
        raise ConfigError(f"{expected}; got {' '.join(words) or 'nothing'}.")
    from gymnasium import spaces

    from worldline.envs.make import make_env

    try:
        env = make_env(words[0])
    except ConfigError as error:
        raise ConfigError(f"{expected}. {error}") from error
    with env:
        space = env.env.action_space
    if not isinstance(space, spaces.Box):
        raise ConfigError(f"The actions of {words[0]} are {space}, choices without a range.")
    return ActionBounds(low=space.low.ravel(), high=space.high.ravel())
