"""Data of any format, in memory or mapped from the disk: by its size."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldline.data.column_writer import write_columns
from worldline.data.columns import is_columns
from worldline.data.dataset import Dataset
from worldline.data.encode import settle_obs_dtype
from worldline.data.formats.catalog import FORMATS, format_to_write, module_of, read_recording
from worldline.data.formats.scaled import ActionBounds, ScaledRecording
from worldline.data.rows import RowEncoder
from worldline.errors import FileError

if TYPE_CHECKING:
    from worldline.data.block import EpisodeBlock
    from worldline.data.formats.recording import Recording

IN_MEMORY_BYTES = 2 << 30  # what is larger is mapped from the disk

OnEpisodes = Callable[[int, int], None]  # is told how many episodes have been read, and how many there are


def stored_bytes(recording: Recording) -> int:
    """Return how much memory the steps of a file take in a buffer; its first block is read to see the dtypes."""
    is_settled = recording.obs_dtype is not None  # the file's dtypes are those that it was written from
    row_bytes = 4 * recording.spec.action_dim + 8
    for column in next(recording.blocks()).obs.values():
        dtype = column.dtype if is_settled else settle_obs_dtype(column.dtype, column.ndim)
        row_bytes += math.prod(column.shape[1:]) * dtype.itemsize
    return recording.num_steps * row_bytes


def mapped_folder(path: Path, import_to: Path, *, on_episodes: OnEpisodes | None = None) -> Path | None:
    """Return the folder of columns that data of any format is to be read from; None where it goes into memory.

    A folder of columns is mapped where it is. What is of another format and takes more than `IN_MEMORY_BYTES` is
    written once to `import_to`, and taken from there if it is there already.

    Raises:
        FileError: The data is missing, damaged, hostile or of no format that is known.
        DataError: Its arrays do not fit together, or hold NaN.
    """
    for folder in (path, import_to):
        if is_columns(folder):
            return folder
    with read_recording(path) as recording:
        if stored_bytes(recording) <= IN_MEMORY_BYTES:
            return None
        _import(recording, import_to, on_episodes)
    return import_to


def check_destination(path: Path) -> None:
    """Check that `convert` may write to `path`.

    Raises:
        FileError: There is something already, or no folder to write it to.
    """
    if path.exists() or path.is_symlink():
        raise FileError(f"{path} is there already. Choose another name, or delete it first.")
    if not path.parent.is_dir():
        raise FileError(f"There is no folder {path.parent}. Make it, or choose another.")


def action_bounds_of(source: Path, *, max_bytes: int | None = None) -> ActionBounds:
    """Return the range of each continuous action in data of any format; videos are not decoded for it.

    Raises:
        FileError: The source is damaged.
        DataError: Its actions are choices, or NaN.
    """
    with read_recording(source, max_bytes=max_bytes) as recording:
        shapes = recording.spec.obs_shape
        recording.unread = frozenset(f"obs.{key}" for key in shapes) if isinstance(shapes, dict) else frozenset()
        return ActionBounds.of(recording)


def convert(
    source: Path,
    destination: Path,
    name: str | None = None,
    *,
    obs_keys: Sequence[str] | None = None,
    action_bounds: ActionBounds | None = None,
    max_bytes: int | None = None,
    on_episodes: OnEpisodes | None = None,
) -> tuple[int, int]:
    """Write data of any format in another; return how many episodes and steps there are.

    Args:
        source: A file or folder of any format that is read.
        destination: Where to write; it must not exist.
        name: The format to write; None: the one that the suffix of `destination` means.
        obs_keys: The observations to write, where they are a dict; None: all.
        action_bounds: What becomes -1 and 1 of continuous actions that were recorded in units of their own; see
            `ScaledRecording`. None leaves actions as they are.
        max_bytes: The most that the arrays of the source may take, instead of the format's own limit.
        on_episodes: Called from time to time.

    Raises:
        FileError: The source is damaged, or the destination is there already or cannot be written.
        ConfigError: The format is not known, or not written.
        DataError: The source holds NaN, its episodes do not fit together or into the format, or its actions have not
            so many bounds.
    """
    name = format_to_write(destination, name)
    check_destination(destination)
    with read_recording(source, max_bytes=max_bytes, obs_keys=obs_keys) as opened:
        recording = opened if action_bounds is None else ScaledRecording(opened, action_bounds)
        counts = recording.num_episodes, recording.num_steps
        if name == "columns":
            _import(recording, destination, on_episodes)
            return counts
        # Other layouts are written column by column, or need to know the end before the start: columns come between.
        with tempfile.TemporaryDirectory(prefix=".worldline-", dir=destination.parent) as folder:
            between = Path(folder) / "columns"
            _import(recording, between, on_episodes)
            data = Dataset(between)
            module_of(name).write(destination, data._episode_store(), data.spec, meta=data.meta)
    return counts


def _import(recording: Recording, folder: Path, on_episodes: OnEpisodes | None) -> None:
    spec = recording.spec
    encoder = RowEncoder(spec.obs_shape, spec.action_dim, recording.obs_dtype, spec.action_sizes)
    write_columns(folder, encoder, _told(recording, on_episodes))


def _told(recording: Recording, on_episodes: OnEpisodes | None) -> Iterator[EpisodeBlock]:
    done = 0
    for block in recording.checked_blocks():
        done += len(block.ends)
        yield block
        del block  # before the next one is read: with videos it is large
        if on_episodes is not None:
            on_episodes(done, recording.num_episodes)


def readable_formats() -> str:
    """Return the formats in words, for messages and help."""
    return "; ".join(known.summary for known in FORMATS.values())
