"""What a buffer is told of its data: shapes, dtypes and sizes, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldline.episode import Array, ObsShape, check_obs_key
from worldline.errors import ConfigError, DataError, nearest, shown


def positive(name: str, value: int) -> int:
    """Return `value` as an int, if it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ConfigError(f"{name} is {value!r}; expected a whole number of at least 1.")
    return int(value)


def checked_shape(shape: ObsShape) -> ObsShape:
    """Return a shape, or a dict of them, as plain tuples of positive sizes."""
    if isinstance(shape, Mapping):
        if not shape:
            raise ConfigError("obs_shape is an empty dict; expected a shape per observation.")
        for key in shape:
            check_obs_key("obs_shape", key)
        return {key: _checked_tuple(value) for key, value in shape.items()}
    return _checked_tuple(shape)


def _checked_tuple(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, (int, str)) or not all(isinstance(size, (int, np.integer)) and size > 0 for size in shape):
        raise ConfigError(f"obs_shape has {shape!r}; expected a tuple of sizes such as (4,) or (64, 64, 3).")
    return tuple(int(size) for size in shape)


def named_shapes(shape: ObsShape) -> dict[str, tuple[int, ...]]:
    """Return the shapes by column name, as `episode.named_obs` names columns."""
    return {f"obs.{key}": value for key, value in shape.items()} if isinstance(shape, dict) else {"obs": shape}


def check_obs_shapes(obs: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check observations `[T, *obs]` against the shapes of a buffer, both by column name.

    Raises:
        DataError: One is missing, unknown or of another shape.
    """
    for name in obs:
        if name not in shapes:
            raise DataError(f"The episode has {name!r}, which the buffer has not. {nearest(name, shapes)}")
    for name, shape in shapes.items():
        if name not in obs:
            raise DataError(f"The episode lacks {name!r}. The buffer needs {', '.join(shapes)}.")
        if obs[name].shape[1:] != shape:
            raise DataError(
                f"{name} has shape {obs[name].shape}; expected [{', '.join(map(str, ('T', *shape)))}]. Reshape it, or "
                f"create the buffer with another obs_shape."
            )


def checked_dtypes(dtype: Any, shape: ObsShape) -> dict[str, np.dtype[Any]]:
    """Return dtypes by column name: none at all if `dtype` is None."""
    if dtype is None:
        return {}
    if isinstance(dtype, Mapping):
        if not isinstance(shape, dict) or dtype.keys() != shape.keys():
            raise ConfigError("obs_dtype is a dict, so obs_shape must be one with the same keys.")
        dtypes = {f"obs.{key}": np.dtype(value) for key, value in dtype.items()}
    else:
        dtypes = {name: np.dtype(dtype) for name in named_shapes(shape)}
    for name, value in dtypes.items():
        if value.kind not in "biuf":
            raise ConfigError(f"obs_dtype of {name} is {value}; expected numbers, such as float32 or uint8.")
    return dtypes


def checked_sizes(sizes: tuple[int, ...], action_dim: int) -> tuple[int, ...]:
    """Return `action_sizes` if they sum to `action_dim`."""
    sizes = tuple(positive("each of action_sizes", size) for size in sizes)
    if sizes and (sum(sizes) != action_dim or sum(sizes) == len(sizes)):
        raise ConfigError(
            f"action_sizes {shown(sizes)} do not fit action_dim {action_dim}. Expected sizes that sum to it, with one "
            f"of 2 or more; () stands for continuous actions."
        )
    return sizes
