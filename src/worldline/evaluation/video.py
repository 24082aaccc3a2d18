"""Episodes as videos and as strips of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

import numpy as np

from worldline.episode import Array, DataSpec, ObsArray
from worldline.errors import ConfigError, DataError, FileError, missing_package
from worldline.evaluation.rollout import Environment

OnFilm = Callable[[int, Array], None]  # the episode's seed, and its frames [T + 1, H, W, 3] uint8

FRAMES_PER_SECOND = 20
_ENCODERS = {".mp4": ("libx264", "yuv420p"), ".gif": ("gif", "rgb8")}
_MIN_HEIGHT = 256  # smaller frames are enlarged


class Renders(Environment, Protocol):
    """An environment that shows itself, such as one made with `render_mode="rgb_array"`."""

    def render(self) -> Any: ...


def filming(make: Callable[[], Renders], on_film: OnFilm, *, seeds: Collection[int]) -> Callable[[], Environment]:
    """Return what makes the same environments, and hands over the frames of the episodes of some seeds.

    Args:
        make: Makes an environment that renders.
        on_film: Called with the seed and the frames when such an episode has ended.
        seeds: Which episodes; frames of all others are not rendered.
    """
    return lambda: _Filmed(make(), on_film, seeds)


def write_video(path: str | os.PathLike[str], frames: Array, *, frames_per_second: int = FRAMES_PER_SECOND) -> Path:
    """Write frames `[T, H, W, 3]` uint8 to a file and return its path; small ones are enlarged in whole steps.

    Args:
        path: Ends in .mp4 (H.264) or .gif.
        frames: The pictures.
        frames_per_second: How fast they are shown.

    Raises:
        ConfigError: Another ending.
        DataError: The frames are not pictures.
        FileError: The file cannot be written.
        MissingPackageError: PyAV is not installed.
    """
    target = Path(path)
    if target.suffix not in _ENCODERS:
        raise ConfigError(f"A video's name ends in {' or '.join(_ENCODERS)}; got {target.name!r}.")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise DataError(f"Frames are [T, H, W, 3] uint8, at least one; got {frames.shape} {frames.dtype}.")
    try:
        import av
    except ImportError as error:
        raise missing_package("av", "video", "Writing a video") from error
    codec, pixel_format = _ENCODERS[target.suffix]
    pictures = _enlarged(frames)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(target), "w") as container:
            stream = container.add_stream(codec, rate=frames_per_second)
            stream.height, stream.width = pictures.shape[1:3]
            stream.pix_fmt = pixel_format
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    except OSError as error:
        raise FileError(f"Cannot write the video {target}: {error}. Choose a folder you may write to.") from error
    return target


def film_strip(frames: Array, *, num_frames: int = 8, height: int = 128) -> Array:
    """Return `[h, w, 3]` uint8: frames at even distances, the first and the last among them, side by side.

    Args:
        frames: `[T, H, W, 3]` uint8.
        num_frames: How many of them, or all if there are fewer.
        height: How high the strip may be; larger frames are thinned in whole steps.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, num_frames).round().astype(int))
    step = max(1, -(-frames.shape[1] // height))
    strip: Array = np.concatenate(list(frames[chosen, ::step, ::step]), axis=1)
    return strip


def side_by_side(first: Array, second: Array) -> Array:
    """Return two films `[T, H, W, 3]` of one height next to each other; the shorter one stands still at its end."""
    if first.shape[1] != second.shape[1]:
        raise DataError(f"Films side by side need the same height; got {first.shape[1]} and {second.shape[1]} pixels.")
    length = max(len(first), len(second))
    whole = [film[np.minimum(np.arange(length), len(film) - 1)] for film in (first, second)]
    joined: Array = np.concatenate(whole, axis=2)
    return joined


class _Filmed:
    def __init__(self, env: Renders, on_film: OnFilm, seeds: Collection[int]) -> None:
        self.data_spec: DataSpec = env.data_spec
        self._env = env
        self._on_film = on_film
        self._seeds = seeds
        self._seed: int | None = None  # of the episode that is filmed
        self._frames: list[Array] = []

    def reset(self, *, seed: int | None = None) -> tuple[ObsArray, dict[str, Any]]:
        began = self._env.reset(seed=seed)
        self._seed = seed if seed in self._seeds else None
        self._frames = []
        self._film()
        return began

    def step(self, action: Array) -> tuple[ObsArray, SupportsFloat, bool, bool, dict[str, Any]]:
        stepped = self._env.step(action)
        self._film()
        if self._seed is not None and (stepped[2] or stepped[3]):
            self._on_film(self._seed, np.stack(self._frames))
            self._frames = []
        return stepped

    def close(self) -> None:
        self._env.close()

    def _film(self) -> None:
        if self._seed is None:
            return
        frame = self._env.render()
        if not isinstance(frame, np.ndarray):
            raise ConfigError(
                "The environment does not render, so it cannot be filmed. Make it with render_mode='rgb_array'."
            )
        self._frames.append(frame)


def _enlarged(frames: Array) -> Array:
    """Return frames of at least `_MIN_HEIGHT`, with an even height and width, as H.264 needs them."""
    times = -(-_MIN_HEIGHT // frames.shape[1])
    larger = frames.repeat(times, axis=1).repeat(times, axis=2)
    padding = ((0, 0), (0, larger.shape[1] % 2), (0, larger.shape[2] % 2), (0, 0))
    even: Array = np.pad(larger, padding, mode="edge")
    return even
