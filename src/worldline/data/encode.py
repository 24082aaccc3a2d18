"""From what callers pass to what columns hold: dtypes, actions, and how an episode ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldline.episode import Array, DataSpec, ObsShape, check_finite, is_image, numeric_array
from worldline.errors import DataError


def settle_obs_dtype(dtype: np.dtype[Any], rank: int) -> np.dtype[Any]:
    """Return the dtype that a buffer stores observations `[T, *obs]` of this dtype and rank in, if none was asked for.

    Images (uint8, with an observation of rank 2 or more) stay uint8, all else becomes float32.
    """
    return np.dtype(np.uint8 if dtype == np.uint8 and rank > 2 else np.float32)


def convert(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return `array [T, ...]` as `dtype`, if that keeps its values.

    Floats may be rounded to a shorter float. Everything else must survive unchanged: integers beyond 2**24 do not fit
    float32, and floats are never cut to integers. Images in uint8 are not taken as floats, because models scale
    uint8 images to [0, 1] and leave floats as they are.

    Raises:
        DataError: It would not keep them.
    """
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f" and dtype.kind != "f":
        raise DataError(
            f"{name} is {array.dtype}, but the buffer stores {dtype}. Convert images with "
            f"(255 * x).round().astype(np.uint8), or create the buffer with obs_dtype=np.float32."
        )
    if array.dtype == np.uint8 and dtype.kind == "f" and is_image(array.shape[1:]):
        raise DataError(
            f"{name} holds uint8 images, but the buffer stores {dtype}. Create it with obs_dtype=np.uint8 (models "
            f"scale those to [0, 1]), or pass x / 255 as {dtype}."
        )
    with np.errstate(over="ignore"):
        converted: Array = array.astype(dtype)
    if array.dtype.kind == "f":
        if not np.can_cast(array.dtype, dtype) and not np.isfinite(converted).all():
            raise DataError(f"{name} has values beyond the range of {dtype}. Scale them, or clip them.")
    elif not np.can_cast(array.dtype, dtype) and not (converted.astype(array.dtype) == array).all():
        raise DataError(
            f"{name} is {array.dtype} with values that {dtype} cannot hold. Scale them, or convert them to floats."
        )
    return converted


def data_spec(obs_shape: ObsShape, action_dim: int, action_sizes: tuple[int, ...]) -> DataSpec:
    """Return the spec of data with these sizes, which say what type the actions are of."""
    action_type = "continuous" if not action_sizes else "discrete" if len(action_sizes) == 1 else "multi_discrete"
    return DataSpec(obs_shape=obs_shape, action_dim=action_dim, action_type=action_type, action_sizes=action_sizes)


def infer_action_sizes(actions: Array, action_dim: int) -> tuple[int, ...]:
    """Return the `DataSpec.action_sizes` that actions of one episode show: `(action_dim,)` if discrete, else `()`.

    Discrete are whole numbers `[T]` or `[T, 1]` where `action_dim` is more than 1, and rows `[T, action_dim]` of which
    every one is one-hot.

    Raises:
        DataError: It cannot be told.
    """
    if action_dim == 1:
        return ()
    width = 1 if actions.ndim == 1 else actions.shape[1]
    if width == 1:
        return (action_dim,)
    if width != action_dim:
        raise DataError(
            f"actions has shape {actions.shape}, but action_dim is {action_dim}. Expected [T, {action_dim}], or [T] "
            f"integers below {action_dim}; for several discrete actions at once pass action_sizes to the buffer."
        )
    if _is_one_hot(actions, (action_dim,)):
        return (action_dim,)
    if actions.dtype.kind != "f":
        raise DataError(
            f"actions of dtype {actions.dtype} and shape {actions.shape} are neither indices nor one-hot. Convert "
            f"continuous ones with .astype(np.float32); for several discrete ones pass action_sizes to the buffer."
        )
    return ()


def encode_actions(actions: Array, *, action_dim: int, action_sizes: tuple[int, ...]) -> Array:
    """Return actions as a batch holds them: `[T, A]` float32, one-hot where discrete.

    Args:
        actions: `[T, A]`; `[T]` where A is 1; indices `[T]` or `[T, K]` where discrete.
        action_dim: A.
        action_sizes: As in `DataSpec`.

    Raises:
        DataError: Wrong shape, or an index that is no whole number or out of range.
    """
    columns = actions[:, None] if actions.ndim == 1 else actions  # [T, A or K]
    num_choices = len(action_sizes)
    if columns.shape[1] == action_dim:
        if action_sizes and not _is_one_hot(columns, action_sizes):
            raise DataError(
                f"actions are not one-hot, but this data is discrete with sizes {action_sizes}. If the actions are "
                f"continuous, create the buffer with action_sizes=()."
            )
        return convert("actions", columns, np.dtype(np.float32))
    if not num_choices or columns.shape[1] != num_choices:
        choices = f", or [T, {num_choices}] indices" if num_choices else ""
        raise DataError(f"actions has shape {actions.shape}; expected [T, {action_dim}]{choices}.")
    return _one_hot(columns, action_sizes)


def encode_ending(steps: int, dones: Any, terminated: Any, truncated: Any) -> tuple[bool, bool]:
    """Return (terminated, truncated) of an episode, from flags that may be one per episode or one per step.

    `dones` alone cannot tell an episode that ended for good from one that a time limit cut off: a last True counts as
    terminated, all False as cut off.

    Raises:
        DataError: None was given, they contradict each other, or one is set before the last step.
    """
    if dones is None and terminated is None and truncated is None:
        raise DataError(
            "Say how the episode ended: pass terminated= and truncated= (env.step returns both), or dones=."
        )
    ended = None if dones is None else _last_flag("dones", dones, steps)
    is_terminated = None if terminated is None else _last_flag("terminated", terminated, steps)
    is_truncated = None if truncated is None else _last_flag("truncated", truncated, steps)
    if ended is not None:
        if is_terminated is None and is_truncated is None:
            return ended, not ended
        if is_terminated is None:
            is_terminated = ended and not is_truncated
        if is_truncated is None:
            is_truncated = ended and not is_terminated
        if ended != (is_terminated or is_truncated):
            raise DataError(
                f"dones ends with {ended}, but terminated is {is_terminated} and truncated {is_truncated}. Expected "
                f"dones = terminated or truncated; leave dones out."
            )
    return bool(is_terminated), bool(is_truncated)


def _last_flag(name: str, value: Any, steps: int) -> bool:
    flags = numeric_array(name, value)
    if flags.ndim > 1 or (flags.ndim == 1 and len(flags) != steps):
        raise DataError(f"{name} has shape {flags.shape}; expected one flag, or [{steps}] flags, one per step.")
    check_finite(name, flags)
    if not ((flags == 0) | (flags == 1)).all():
        raise DataError(f"{name} has values other than 0 and 1 (False and True).")
    flags = np.atleast_1d(flags).astype(bool)
    if flags[:-1].any():
        raise DataError(
            f"{name} is True in row {int(np.argmax(flags))} of {steps}, before the last step. One call adds one "
            f"episode: split the arrays after each True and add the parts one by one."
        )
    return bool(flags[-1])


def _groups(action_sizes: tuple[int, ...]) -> list[slice]:
    ends = np.cumsum(action_sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, action_sizes, strict=True)]


def _is_one_hot(columns: Array, action_sizes: tuple[int, ...]) -> bool:
    if not ((columns == 0) | (columns == 1)).all():
        return False
    return all((columns[:, group].sum(axis=1) == 1).all() for group in _groups(action_sizes))


def _one_hot(indices: Array, action_sizes: tuple[int, ...]) -> Array:
    fractions = indices[indices != np.floor(indices)] if indices.dtype.kind == "f" else indices[:0]
    if fractions.size:
        raise DataError(
            f"actions has shape {indices.shape} and fractions such as {fractions.flat[0]:.4g}, but this data is "
            f"discrete with sizes {action_sizes}. Pass continuous actions as [T, A]."
        )
    for choice, size in enumerate(action_sizes):
        low, high = indices[:, choice].min(), indices[:, choice].max()
        if low < 0 or high >= size:
            raise DataError(
                f"actions has the index {int(low if low < 0 else high)}, but there are {size} choices, from 0 on. "
                f"Check action_dim."
            )
    encoded = np.zeros((len(indices), sum(action_sizes)), dtype=np.float32)
    rows = np.arange(len(indices))
    for choice, group in enumerate(_groups(action_sizes)):
        encoded[rows, group.start + indices[:, choice].astype(np.int64)] = 1.0
    return encoded
