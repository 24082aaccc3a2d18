"""Gymnasium spaces in Worldline's words: observations as plain arrays, actions as rows `[A]` of `Batch.actions`.

| action space  | row [A], float32                                                          |
|---------------|---------------------------------------------------------------------------|
| Discrete      | one-hot of `action - start`                                               |
| MultiDiscrete | one-hots of each choice, concatenated                                     |
| Box           | each component in [-1, 1], where -1 is the box's low end and 1 its high one |

Policies act in [-1, 1] and data files hold [-1, 1]; the box's own units are seen by the environment alone.

| observation space                 | array                                                             |
|-----------------------------------|-------------------------------------------------------------------|
| Box                               | as it is (images stay uint8); float64 becomes float32             |
| Dict                              | a dict of such arrays                                             |
| Discrete, MultiDiscrete, Tuple... | flattened to one float32 vector as Gymnasium does (one-hot)       |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten, flatten_space

from worldline.episode import Array, DataSpec, ObsArray, ObsShape
from worldline.errors import DataError


def spec_of(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> DataSpec:
    """Return the shapes that a model for these spaces needs.

    Raises:
        DataError: A space that Worldline cannot learn from.
    """
    action_type, sizes, width = _action_layout(action_space)
    array_space = obs_space(observation_space)
    obs_shape: ObsShape = (
        {key: tuple(part.shape or ()) for key, part in array_space.spaces.items()}
        if isinstance(array_space, spaces.Dict)
        else tuple(array_space.shape or ())
    )
    return DataSpec(obs_shape=obs_shape, action_dim=width, action_type=action_type, action_sizes=sizes)


def to_env_action(row: Array, space: spaces.Space[Any]) -> Any:
    """Return the environment's action for a row `[A]`; out-of-range continuous components are clipped to [-1, 1].

    Raises:
        DataError: The row has another shape, or is not finite.
    """
    return to_env_actions(row[None], space)[0]


def to_env_actions(rows: Array, space: spaces.Space[Any]) -> Array:
    """Return the actions of N environments for rows `[N, A]`, as `to_env_action` does for one.

    Raises:
        DataError: The rows have another shape, or are not finite.
    """
    if isinstance(space, spaces.Discrete):
        _check_rows(rows, int(space.n))
        indices: Array = rows.argmax(axis=1) + space.start  # [N] int64
        return indices
    if isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.ravel()
        _check_rows(rows, int(sizes.sum()))
        parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
        choices = np.stack([part.argmax(axis=1) for part in parts], axis=1).astype(space.dtype)  # [N, K]
        chosen: Array = choices.reshape(len(rows), *space.nvec.shape) + space.start
        return chosen
    if isinstance(space, spaces.Box):
        _check_rows(rows, int(np.prod(space.shape)))
        fraction = (np.clip(rows.reshape(len(rows), *space.shape), -1.0, 1.0) + 1.0) / 2.0
        scaled = space.low + fraction * (space.high - space.low)
        clipped: Array = np.clip(scaled, space.low, space.high)  # rounding must not leave the box
        return clipped.astype(space.dtype)
    raise _unsupported_action(space)


def to_action_row(action: Any, space: spaces.Space[Any]) -> Array:
    """Return the row `[A]`, float32, of an environment's action: what `to_env_action` takes back to it.

    Raises:
        DataError: The action has another shape, or is none of the space's choices.
    """
    given = np.asarray(action)
    if isinstance(space, spaces.Box):
        if given.shape != space.shape:
            raise DataError(f"An action of {space} has shape {space.shape}; got {given.shape}.")
        fraction = (given - space.low) / (space.high - space.low)
        row: Array = (2.0 * fraction - 1.0).astype(np.float32).reshape(-1)
        return row
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        raise _unsupported_action(space)
    _, sizes, _ = _action_layout(space)
    choices = (given - space.start).reshape(-1)
    if len(choices) != len(sizes) or not all(0 <= choice < size for choice, size in zip(choices, sizes, strict=True)):
        raise DataError(f"The action {given} is not one of {space}.")
    parts = [np.eye(size, dtype=np.float32)[int(choice)] for choice, size in zip(choices, sizes, strict=True)]
    return np.concatenate(parts)


def obs_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return the space of what `to_obs` returns: a Box, or a Dict of them.

    Raises:
        DataError: The space has no fixed array shape.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _array_space(part) for key, part in space.spaces.items()})
    return _array_space(space)


def action_row_space(space: spaces.Space[Any]) -> spaces.Box:
    """Return the space of rows `[A]`: [0, 1] where they are one-hot, [-1, 1] where they are continuous.

    Raises:
        DataError: Actions of a kind that Worldline cannot learn.
    """
    action_type, _, width = _action_layout(space)
    low = -1.0 if action_type == "continuous" else 0.0
    return spaces.Box(low, 1.0, (width,), np.float32)


def to_obs(obs: Any, space: spaces.Space[Any]) -> ObsArray:
    """Return the environment's observation as an array, or a dict of arrays. Copies: some environments reuse theirs."""
    if isinstance(space, spaces.Dict):
        return {key: _to_array(obs[key], part) for key, part in space.spaces.items()}
    return _to_array(obs, space)


def _to_array(obs: Any, space: spaces.Space[Any]) -> Array:
    if isinstance(space, spaces.Box):
        return np.array(obs, dtype=np.float32 if space.dtype == np.float64 else space.dtype)
    return np.array(flatten(space, obs), dtype=np.float32)


def _array_space(space: spaces.Space[Any]) -> spaces.Box:
    flat = flatten_space(space) if space.is_np_flattenable else None
    if not isinstance(flat, spaces.Box):
        raise DataError(
            f"The observation space {space} has no fixed array shape. Wrap the environment so that it observes "
            "a Box, or a Dict of them."
        )
    if not isinstance(space, spaces.Box):
        return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
    if space.dtype != np.float64:
        return space
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _action_layout(space: spaces.Space[Any]) -> tuple[str, tuple[int, ...], int]:
    """Return action type, choices of each discrete component and A."""
    if isinstance(space, spaces.Discrete):
        return "discrete", (int(space.n),), int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(int(n) for n in space.nvec.ravel())
        return "multi_discrete", sizes, sum(sizes)
    if isinstance(space, spaces.Box):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise DataError(
                f"The action space {space} has no finite bounds to scale [-1, 1] to. "
                "Wrap the environment with gymnasium.wrappers.TransformAction and give it a bounded Box."
            )
        return "continuous", (), int(np.prod(space.shape))
    raise _unsupported_action(space)


def _unsupported_action(space: spaces.Space[Any]) -> DataError:
    return DataError(
        f"Actions of {type(space).__name__} are not supported; Discrete, MultiDiscrete and Box are. "
        "Wrap the environment so that it takes one of these."
    )


def _check_rows(rows: Array, width: int) -> None:
    if rows.shape[1:] != (width,):
        raise DataError(f"An action row for this environment has shape ({width},); got {rows.shape[1:]}.")
    if not np.isfinite(rows).all():
        raise DataError(
            f"The action {rows} is not finite. The policy that chose it has diverged: use an earlier checkpoint."
        )
