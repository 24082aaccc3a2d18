"""What a policy observes, made ready for a network: numbers normalised, images in [-1, 1], text as bytes.

An observation is one of three by its shape and name: an image has three dimensions, what is called `language` is the
bytes of a text in UTF-8, with zeros behind it, and all else is numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from worldline.episode import is_channels_first, is_image
from worldline.errors import ConfigError, DataError, nearest
from worldline.models.observations import check_shapes
from worldline.nn.normalizer import Normalizer
from worldline.ops.augment import random_shift
from worldline.ops.twohot import symlog
from worldline.statistics import ColumnStatistics, flat_statistics

LANGUAGE = "language"  # the name of observations that are text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Which observations are what, and how wide each kind is together."""

    vectors: tuple[str, ...]
    images: tuple[str, ...]
    texts: tuple[str, ...]
    vector_size: int  # V, numbers of all vectors together
    image_shape: tuple[int, int, int]  # (C, H, W), the channels of all cameras together; zeros without images
    text_length: int  # L, bytes of all texts together

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """Return the layout of observations of these shapes, in the order of their names.

        Raises:
            ConfigError: One is neither numbers nor an image, or the images differ in size.
        """
        images = {name: shape for name, shape in shapes.items() if is_image(shape)}
        check_shapes({name: shape or (1,) for name, shape in shapes.items()}, images)  # a single number is one, too
        texts = tuple(name for name in shapes if name == LANGUAGE)
        vectors = tuple(name for name in shapes if name not in images and name not in texts)
        channels_first = [shape if is_channels_first(shape) else (shape[2], *shape[:2]) for shape in images.values()]
        _, height, width = channels_first[0] if images else (0, 0, 0)
        return cls(
            vectors=vectors,
            images=tuple(images),
            texts=texts,
            vector_size=sum(math.prod(shapes[name]) for name in vectors),
            image_shape=(sum(shape[0] for shape in channels_first), height, width),
            text_length=sum(math.prod(shapes[name]) for name in texts),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Observations of n steps as networks take them; None where there are none of a kind."""

    vectors: Tensor | None  # [B, n, V], normalised
    images: Tensor | None  # [B, n, C, H, W] in [-1, 1], moved a little while training
    text: Tensor | None  # [B, L] int64, the bytes of the last step; 0 is padding


class InputLayer(nn.Module):
    """Makes observations ready, and holds the statistics that they are normalised by.

    Args:
        shapes: Of every observation, by name.
        kind: How numbers are normalised: by "standard" or "range" of the data, or by "symlog" without it.
        shift: By how many pixels images are moved while training.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], *, kind: Literal["symlog", "standard", "range"], shift: int
    ) -> None:
        super().__init__()
        self.layout = Layout.of(shapes)
        self.shift = shift
        self.is_channels_first = {name: is_channels_first(shapes[name]) for name in self.layout.images}
        size = self.layout.vector_size
        self.normalizer = Normalizer((size,), kind=kind) if size and kind != "symlog" else None

    @property
    def is_fitted(self) -> bool:
        """Whether it has the statistics of some data, or needs none."""
        return self.normalizer is None or self.normalizer.is_fitted

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Take the statistics of the columns "obs", or "obs.KEY" for each key.

        Raises:
            DataError: A column is missing, or its rows are of another shape.
        """
        if self.normalizer is None:
            return
        is_nameless = "obs" in statistics
        names = ["obs" if is_nameless else f"obs.{name}" for name in self.layout.vectors]
        self.normalizer.fit(flat_statistics([column_of(statistics, name) for name in names]))

    def forward(self, obs: Mapping[str, Tensor]) -> Inputs:
        """Return what networks take of `obs`, each `[B, n, *obs]`."""
        layout = self.layout
        vectors = images = text = None
        if layout.vectors:
            joined = torch.cat([_flat(obs[name]) for name in layout.vectors], -1)
            vectors = symlog(joined) if self.normalizer is None else self.normalizer(joined)
        if layout.images:
            images = self._images(obs)
        if layout.texts:
            text = torch.cat([obs[name][:, -1].long().flatten(1) for name in layout.texts], -1)
        return Inputs(vectors=vectors, images=images, text=text)

    def _images(self, obs: Mapping[str, Tensor]) -> Tensor:
        parts = [
            obs[name] if self.is_channels_first[name] else obs[name].movedim(-1, 2) for name in self.layout.images
        ]  # each [B, n, C, H, W]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        if self.training:  # all steps and cameras of a window by the same pixels: what moves in the world still does
            shape = joined.shape
            joined = random_shift(joined.flatten(1, 2), self.shift).view(shape)
        return joined.float().div(127.5).sub(1.0)


def _flat(numbers: Tensor) -> Tensor:
    """Return numbers `[B, n, *obs]` as float `[B, n, D]`; D is 1 where there is no dimension but B and n."""
    return (numbers[..., None] if numbers.ndim == 2 else numbers.flatten(2)).float()


def column_of(statistics: Mapping[str, ColumnStatistics], name: str) -> ColumnStatistics:
    """Return the statistics of one column.

    Raises:
        DataError: There are none.
    """
    if name not in statistics:
        raise DataError(
            f"The model normalises {name!r}, of which there are no statistics. {nearest(name, statistics)} "
            "Train it on data that has this column."
        )
    return statistics[name]


def check_image_settings(widths: tuple[int, ...], shift: int) -> None:
    """Check the settings of an image network.

    Raises:
        ConfigError: One is out of range.
    """
    if not widths or any(width < 8 or width % 8 for width in widths):
        raise ConfigError(f"image_widths must be multiples of 8, such as (32, 64, 128); got {widths}.")
    if not 0 <= shift <= 64:
        raise ConfigError(f"image_shift must be between 0 and 64 pixels; got {shift}.")
