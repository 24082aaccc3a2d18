"""Pictures and the frames of videos, decoded with PyAV; what it raises becomes a `FileError`.

Nothing in a video is followed: the demuxer and the decoders are named here, so that a file which is a playlist opens no
other one. Frames that are damaged are refused and not concealed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.formats.recording import DAMAGED, MAX_ROW_BYTES
from worldline.episode import Array
from worldline.errors import DataError, FileError, WorldlineError, missing_package, shown

_DECODING = {"err_detect": "explode", "max_pixels": str(MAX_ROW_BYTES // 3)}
_CONTAINER = "mp4"
_PICTURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}  # decoders by the first bytes


class FrameReader:
    """Reads stretches of videos; one that begins where the last one ended needs no search.

    Args:
        shape: [H, W, 3] of a frame.
        frames_per_second: How many frames a second has.
    """

    def __init__(self, shape: tuple[int, ...], frames_per_second: float) -> None:
        self._shape = shape
        self._tolerance = 0.25 / frames_per_second
        self._path: Path | None = None
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._next: Any = None  # the frame that follows, already decoded

    def read(self, path: Path, times: Array, stop: float | None) -> Array:
        """Return the frames that a video has at some times, `[T, H, W, 3]` uint8.

        Args:
            path: An mp4 file.
            times: `[T]`, seconds, of all frames that there are from the first one to the last one.
            stop: The time at which other frames begin; None: there must be no more.

        Raises:
            FileError: The video is damaged, or has not exactly one frame for each time.
            MissingPackageError: PyAV is not installed.
        """
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any() or times[0] < 0:
            raise DataError(f"{path}: the timestamps of its frames do not grow from 0 on. {DAMAGED}")
        frames = np.empty((len(times), *self._shape), dtype=np.uint8)
        with _errors_of(path):
            self._go_to(path, float(times[0]))
            for row, time in enumerate(times.tolist()):
                if not self._is_next_before(time + self._tolerance):
                    raise FileError(
                        f"{path} has no frame at {time:.4g} s, which is row {row} of {len(times)} of an episode. "
                        f"{DAMAGED}"
                    )
                if self._next.time < time - self._tolerance:
                    raise FileError(
                        f"{path} has a frame at {self._next.time:.4g} s that is in no row; the next one expected is at "
                        f"{time:.4g} s. Frames and rows must be as many."
                    )
                frames[row] = self._picture(path)
                self._next = next(self._frames, None)
            if self._next is not None and self._is_next_before(np.inf if stop is None else stop - self._tolerance):
                raise FileError(
                    f"{path} goes on at {self._next.time:.4g} s, after the {len(times)} rows of an episode. Frames and "
                    f"rows must be as many."
                )
        return frames

    def close(self) -> None:
        """Close the video that was read last."""
        if self._container is not None:
            self._container.close()
        self._path = self._container = self._next = None
        self._frames = iter(())

    def _is_next_before(self, time: float) -> bool:
        return self._next is not None and self._next.time < time

    def _picture(self, path: Path) -> Array:
        if self._next.is_corrupt:
            raise FileError(f"{path} is damaged at {self._next.time:.4g} s. {DAMAGED}")
        return _pixels(path, self._next, self._shape)

    def _go_to(self, path: Path, time: float) -> None:
        """Make `_next` the first frame at `time` or later."""
        first = time - self._tolerance
        if path != self._path:
            self._open(path)
        elif self._next is None or not first <= self._next.time <= time + self._tolerance:
            stream = self._container.streams.video[0]
            self._container.seek(int(first / stream.time_base), stream=stream)  # to a key frame at or before it
            self._frames = self._container.decode(stream)
            self._next = next(self._frames, None)
        while self._is_next_before(first):
            self._next = next(self._frames, None)

    def _open(self, path: Path) -> None:
        self.close()
        self._container = _av().open(str(path), format=_CONTAINER, options=_DECODING)
        stream = next(iter(self._container.streams.video), None)
        if stream is None or stream.codec_context is None:
            raise FileError(f"{path} has no video that can be decoded. {DAMAGED}")
        stream.thread_type = "AUTO"
        stream.codec_context.options = _DECODING
        self._frames = self._container.decode(stream)
        self._next = next(self._frames, None)
        self._path = path


def decode_picture(path: Path, content: bytes, shape: tuple[int, ...]) -> Array:
    """Return a picture in PNG or JPEG as `[*shape]` uint8.

    Args:
        path: The file that it is in, for messages.
        content: The picture.
        shape: [H, W, 3] that it must have; [H, W] of grey ones.

    Raises:
        FileError: It is damaged, or of another size.
        MissingPackageError: PyAV is not installed.
    """
    decoder = next((name for magic, name in _PICTURES.items() if content.startswith(magic)), None)
    if decoder is None:
        raise FileError(f"{path} has a picture that is neither PNG nor JPEG. Expected one of those: convert it first.")
    av = _av()
    with _errors_of(path):
        context = av.CodecContext.create(decoder, "r")
        context.options = _DECODING
        frames = [*context.decode(av.Packet(content)), *context.decode(None)]
        if len(frames) != 1 or frames[0].is_corrupt:
            raise FileError(f"{path} has a picture that cannot be decoded. {DAMAGED}")
        return _pixels(path, frames[0], shape)


def _pixels(path: Path, frame: Any, shape: tuple[int, ...]) -> Array:
    if (frame.height, frame.width) != shape[:2]:
        raise FileError(
            f"{path} has pictures of {frame.height} x {frame.width}, where {shape[0]} x {shape[1]} were declared. "
            f"{DAMAGED}"
        )
    pixels: Array = frame.to_ndarray(format="gray" if len(shape) == 2 else "rgb24")
    return pixels


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise missing_package("av", "video", "Reading videos and pictures") from error
    return av


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except WorldlineError:
        raise
    except (_av().error.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise FileError(f"{path} cannot be decoded ({shown(str(error))}). {DAMAGED}") from error
