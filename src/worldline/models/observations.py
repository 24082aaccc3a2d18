"""Observations by name, checked against what a model was built for."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from worldline.batch import Obs
from worldline.episode import ObsShape, is_channels_first, is_image
from worldline.errors import ConfigError, DataError


def shapes_by_name(obs_shape: ObsShape) -> dict[str, tuple[int, ...]]:
    """Return every observation's shape by name, sorted; a nameless one is called "obs"."""
    return dict(sorted(obs_shape.items())) if isinstance(obs_shape, dict) else {"obs": obs_shape}


class ObservationSettings:
    """What configurations say of observations: a base class of theirs, without a field of its own."""

    obs_shape: ObsShape  # of one observation, or by name

    @property
    def obs_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every observation's shape by name, sorted; a nameless one is called "obs"."""
        return shapes_by_name(self.obs_shape)

    @property
    def vectors(self) -> dict[str, int]:
        """The size of every observation that is not an image, by name."""
        return {name: math.prod(shape) for name, shape in self.obs_shapes.items() if not is_image(shape)}

    @property
    def images(self) -> dict[str, tuple[int, ...]]:
        """The shape of every image, by name."""
        return {name: shape for name, shape in self.obs_shapes.items() if is_image(shape)}


def image_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the height and width of an image's shape."""
    return shape[1:] if is_channels_first(shape) else shape[:2]


def check_shapes(shapes: Mapping[str, tuple[int, ...]], images: Mapping[str, tuple[int, ...]]) -> None:
    """Check that observations are vectors and images of one size.

    Raises:
        ConfigError: One is neither, or the images differ.
    """
    for name, shape in shapes.items():
        if len(shape) > 3 or not shape or min(shape) < 1:
            raise ConfigError(
                f"obs_shape of {name!r} must have 1 to 3 positive dimensions (an image has 3); got {shape}."
            )
    if len({image_size(shape) for shape in images.values()}) > 1:
        raise ConfigError(
            f"All images must have one height and width, since one network sees them together; got {dict(images)}. "
            "Resize them, or leave all but one out (obs_keys)."
        )


def named_obs(obs: Obs, shapes: Mapping[str, tuple[int, ...]], *, leading: int) -> dict[str, Tensor]:
    """Return observations by name, checked against the shapes that the model was built for.

    Args:
        obs: A tensor or a dict of them, each with `leading` dimensions before those of the observation.
        shapes: The model's, by name.
        leading: 1 for `[B, *obs]`, 2 for `[B, T, *obs]`.

    Raises:
        DataError: A missing observation, another shape, or more of one than of another.
    """
    named = obs if isinstance(obs, dict) else {"obs": obs}
    if missing := sorted(shapes.keys() - named.keys()):
        raise DataError(
            f"The model was built for observations {sorted(shapes)}; {', '.join(missing)} is missing "
            f"from those given, {sorted(named)}."
        )
    for name, shape in shapes.items():
        if named[name].ndim != leading + len(shape) or tuple(named[name].shape[leading:]) != shape:
            axes = "[B, T" if leading == 2 else "[B"
            raise DataError(
                f"Observation {name!r} must be {axes}, {', '.join(map(str, shape))}]; got {list(named[name].shape)}."
            )
    counts = {name: list(named[name].shape[:leading]) for name in shapes}
    if any(count != next(iter(counts.values())) for count in counts.values()):
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"Observations are not equally many: {listed}. Give each of them for the same steps.")
    return {name: named[name] for name in shapes}


def blank(x: Tensor, mask: Tensor) -> Tensor:
    """Return `x [*mask, ...]`, zero where `mask` is False. What is not real may be NaN, which no weight stops."""
    # Integers are finite, and images too large to be copied for nothing.
    if not x.is_floating_point():
        return x
    return x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - mask.ndim)), 0.0)
