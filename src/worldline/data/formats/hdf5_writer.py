"""Writing HDF5 files, whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.data.formats.recording import split_meta
from worldline.episode import Array
from worldline.errors import FileError
from worldline.files import replacing

if TYPE_CHECKING:
    import h5py

FORMAT = 1  # of what Worldline adds to each layout


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Write to a sibling of `path`, which takes its place once all of it is on the disk.

    Raises:
        FileError: The file cannot be written. What was there before is still there.
    """
    import h5py

    try:
        with replacing(path) as (beside,), h5py.File(beside, "w", locking=False) as file:
            yield file
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{path} cannot be written: {reason}. Choose a folder you may write to.") from error


def add_array(group: h5py.Group, name: str, array: Array) -> None:
    """Write an array into a group; equal arrays make equal files."""
    group.create_dataset(name, data=array, track_times=False)


def add_meta(group: h5py.Group, meta: Mapping[str, Any]) -> None:
    """Write an episode's `meta` into attributes: `language` as it is, the rest as JSON in `meta`.

    Raises:
        DataError: It is not JSON, or too long.
    """
    language, rest = split_meta(meta)
    if language is not None:
        group.attrs["language"] = language
    if rest is not None:
        group.attrs["meta"] = rest


def add_format(group: h5py.Group, action_sizes: tuple[int, ...], *, is_plain: bool) -> None:
    """Write what Worldline needs to give back what it wrote, as attributes of a group."""
    group.attrs["worldline_format"] = FORMAT
    group.attrs["action_sizes"] = np.array(action_sizes, dtype=np.int64)
    group.attrs["plain_obs"] = is_plain
