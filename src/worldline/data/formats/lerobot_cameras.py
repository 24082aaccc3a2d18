"""Cameras of a LeRobot data set: which there are, and their pictures of an episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.data.formats.lerobot_meta import INFO, Clip, check_inside, read_clips
from worldline.data.formats.recording import DAMAGED, MAX_ROW_BYTES
from worldline.data.formats.video import FrameReader, decode_picture
from worldline.episode import Array
from worldline.errors import DataError, FileError, shown
from worldline.files import regular_size

if TYPE_CHECKING:
    import pyarrow as pa

VIDEO, IMAGE = "video", "image"  # dtypes of features that are pictures
_DEPTH = ("is_depth_map", "video.is_depth_map")


def is_depth(feature: Mapping[str, Any]) -> bool:
    """Tell whether a camera measures distances: those are no colours, and are not read."""
    described = [feature.get(key) for key in ("info", "video_info")]
    return any(told.get(key) is True for told in described if isinstance(told, dict) for key in _DEPTH)


def picture_shape(path: Path, key: str, feature: Mapping[str, Any]) -> tuple[int, ...]:
    """Return [H, W, 3] of a camera's pictures, which the feature has in this order or with the channels first.

    Raises:
        FileError: It says nothing of the kind, or pictures are too large.
    """
    shape, names = feature.get("shape"), feature.get("names")
    sizes = shape if isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape) else []
    if len(sizes) == 3:
        is_first = names[0] in ("channel", "channels") if isinstance(names, list) and names else sizes[2] != 3
        height, width, channels = [*sizes[1:], sizes[0]] if is_first else sizes
        if channels == 3 and 3 * height * width <= MAX_ROW_BYTES:
            return height, width, 3
    raise FileError(
        f"{path / INFO} says that {key} has pictures of shape {shown(shape)}. Expected [height, width, 3] and at most "
        f"{MAX_ROW_BYTES:,} bytes."
    )


class Videos:
    """The frames of one camera, in videos.

    Args:
        path: Of the data set.
        info: Its `meta/info.json`.
        key: The camera.
        shape: [H, W, 3].
    """

    def __init__(self, path: Path, info: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> None:
        rate = info.get("fps")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 10_000:
            raise FileError(f"{path / INFO} has {shown(rate)} frames a second (fps). {DAMAGED}")
        self._path, self._key, self._rate = path, key, float(rate)
        self._clips = read_clips(path, info, key)
        self._reader = FrameReader(shape, self._rate)

    def num_bytes(self) -> int:
        """Return how large the files are.

        Raises:
            FileError: One is missing, or a link that leads elsewhere.
        """
        files = {clip.path for clip in self._clips.values()}
        for file in files:
            check_inside(self._path, file)
            if not file.is_file():
                raise FileError(f"{file} does not exist. Restore it from a copy, or read other observations only.")
        return sum(regular_size(file) for file in files)

    def read(self, episode: int, num_rows: int, timestamps: Array | None) -> Array:
        """Return the frames of an episode, `[T, H, W, 3]` uint8.

        Args:
            episode: Its number.
            num_rows: T, how many rows the tables have of it.
            timestamps: `[T]`, seconds from its start; None: those of the frame rate.

        Raises:
            FileError: The video is damaged or missing, or has not one frame for every row.
        """
        clip = self._clips.get(episode)
        if clip is None:
            raise FileError(f"{self._path}: meta/episodes says nothing of the video of episode {episode}. {DAMAGED}")
        self._check_length(clip, episode, num_rows)
        times = np.arange(num_rows) / self._rate if timestamps is None else timestamps.astype(np.float64)
        return self._reader.read(clip.path, clip.start + times, clip.stop)

    def close(self) -> None:
        """Close the video that was read last."""
        self._reader.close()

    def _check_length(self, clip: Clip, episode: int, num_rows: int) -> None:
        seconds = num_rows / self._rate if clip.stop is None else clip.stop - clip.start
        if clip.num_frames != num_rows or not abs(seconds * self._rate - num_rows) < 1:
            raise FileError(
                f"{self._path}: episode {episode} has {num_rows} rows; meta/episodes says that it has "
                f"{clip.num_frames}, and {seconds:.4g} s of the video {self._key}. {DAMAGED}"
            )


def decode_pictures(path: Path, key: str, column: pa.Array, shape: tuple[int, ...]) -> Array:
    """Return a column of pictures that lie in a table as `[n, H, W, 3]` uint8.

    Raises:
        DataError: It holds something else, or rows without a picture.
        FileError: A picture is damaged, or of another size.
    """
    import pyarrow as pa

    if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
        raise DataError(f"{path}: {key} holds {shown(str(column.type))}. Expected pictures; leave it out.")
    contents: Iterable[bytes | None] = column.field("bytes").to_pylist()
    pictures = np.empty((len(column), *shape), dtype=np.uint8)
    for row, content in enumerate(contents):
        if not isinstance(content, bytes):
            raise DataError(f"{path}: {key} has rows whose picture is not in the table. Embed them, or leave it out.")
        pictures[row] = decode_picture(path, content, shape)
    return pictures
