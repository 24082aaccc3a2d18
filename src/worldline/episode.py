"""Episode: one trajectory, validated once.

Follows the row rule of `batch.py`: row t holds obs_t, the action taken there, and the reward that `env.step` then
returned; `final_obs` is what the last step led to.

How an episode ended is two flags, because they mean different things to a learner:

| terminated | truncated | meaning                                                                              |
|------------|-----------|--------------------------------------------------------------------------------------|
| True       | False     | the environment ended it for good: the value after the last step is zero             |
| False      | True      | a time limit cut it off: the value after the last step is that of `final_obs`        |
| True       | True      | both at once, which Gymnasium allows: learners treat it as terminated                |
| False      | False     | the recording stopped in the middle                                                  |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np

from worldline.errors import DataError, nearest

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
ObsArray: TypeAlias = Array | dict[str, Array]
ObsShape: TypeAlias = tuple[int, ...] | dict[str, tuple[int, ...]]  # of one observation, or of each by name
T = TypeVar("T")

_CHECK_BLOCK = 1 << 20  # elements looked at together, so that a check never doubles the memory of its array


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What one step of a data set looks like: all that a model needs to be built for it."""

    obs_shape: ObsShape
    action_dim: int  # A, the width of a row of `Batch.actions`
    action_type: str  # "discrete", "multi_discrete" or "continuous"
    action_sizes: tuple[int, ...]  # discrete: (A,); multi_discrete: choices of each, summing to A; continuous: ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """One trajectory of T >= 1 steps.

    Lists are turned into arrays; arrays are kept as they are, in their own dtype and without a copy.

    >>> import numpy as np
    >>> episode = Episode(obs=np.zeros((3, 4)), actions=[0, 1, 0], rewards=[1.0, 1.0, 1.0], terminated=True)
    >>> len(episode)
    3
    >>> Episode(obs=np.zeros((3, 4)), actions=[0, 1], rewards=[1.0, 1.0, 1.0], terminated=True)
    Traceback (most recent call last):
    worldline.errors.DataError: actions has 2 rows, but rewards has 3. Every column needs one row per step; an \
observation after the last step goes into final_obs.

    Raises:
        DataError: A column has the wrong rank, length or type, or holds NaN or infinity.
    """

    obs: ObsArray  # [T, *obs], or a dict of them
    actions: Array  # [T, A] float, or [T] / [T, 1] integers (discrete), or [T, K] integers (multi-discrete)
    rewards: Array  # [T] float
    terminated: bool  # the last step ended the episode for good
    truncated: bool = False  # the last step was cut off (time limit)
    final_obs: ObsArray | None = None  # [*obs], what the last step led to
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # seed, task, language, ...

    def __post_init__(self) -> None:
        rewards = checked_rewards(self.rewards)
        actions = numeric_array("actions", self.actions)
        if actions.ndim not in (1, 2):
            raise DataError(f"actions has shape {actions.shape}; expected [T, A], or [T] for discrete actions.")
        obs = _map_obs("obs", self.obs)
        for name, column in {"actions": actions, **named_obs(obs)}.items():
            _check_rows(name, column, len(rewards))
        for name, column in {"rewards": rewards, "actions": actions, **named_obs(obs)}.items():
            check_finite(name, column)
        object.__setattr__(self, "rewards", rewards)
        object.__setattr__(self, "actions", actions)
        object.__setattr__(self, "obs", obs)
        object.__setattr__(self, "final_obs", _checked_final_obs(self.final_obs, obs))
        object.__setattr__(self, "terminated", _one_flag("terminated", self.terminated))
        object.__setattr__(self, "truncated", _one_flag("truncated", self.truncated))

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def commands(self) -> Array:
        """What each step turned out to obey, `[T, 2]` float32: remaining steps with it, undiscounted return to go."""
        steps = np.arange(len(self), 0, -1)
        returns = self.rewards[::-1].cumsum(dtype=np.float64)[::-1]
        return np.stack((steps, returns), 1).astype(np.float32)

    def select_obs(self, keys: Iterable[str]) -> Episode:
        """Return the episode with only these of its observations, in their order.

        Raises:
            DataError: It has no observation of such a name, or none by name at all.
        """
        named = list(keys)
        if not isinstance(self.obs, dict):
            raise DataError(f"The observations have no names to choose {', '.join(named)} from.")
        for key in named:
            if key not in self.obs:
                raise DataError(f"The episode has no observation {key!r}. {nearest(key, self.obs)}")
        final = {key: self.final_obs[key] for key in named} if isinstance(self.final_obs, dict) else None
        return dataclasses.replace(self, obs={key: self.obs[key] for key in named}, final_obs=final)


def numeric_array(name: str, value: Any) -> Array:
    """Return `value` as an array of numbers or booleans, without a copy where it is one.

    Raises:
        DataError: It is ragged, or holds objects, text, complex numbers or dates.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name} cannot become one array: {error}. Every row must have the same shape.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name} has dtype {array.dtype}; expected numbers or booleans. Convert it first, e.g. with "
            f"np.asarray(..., dtype=np.float32), and give every row the same shape."
        )
    return array


def is_image(shape: tuple[int, ...]) -> bool:
    """Tell whether observations of this shape are images: three dimensions, `(H, W, C)` or `(C, H, W)`."""
    return len(shape) == 3


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Tell whether an image's shape is `(C, H, W)` rather than `(H, W, C)`: what is smallest is the channels."""
    return shape[0] < min(shape[1:])


def named_obs(obs: ObsArray) -> dict[str, Array]:
    """Return the arrays of an observation by column name: "obs", or "obs.KEY" for each key of a dict."""
    return {f"obs.{key}": value for key, value in obs.items()} if isinstance(obs, dict) else {"obs": obs}


def unnamed_obs(named: Mapping[str, T]) -> T | dict[str, T]:
    """Return what `named_obs` took apart: the value of "obs", or a dict of those of "obs.KEY"."""
    return named["obs"] if "obs" in named else {name.removeprefix("obs."): value for name, value in named.items()}


def checked_rewards(rewards: Any) -> Array:
    """Return rewards as an array `[T]`, T >= 1.

    Raises:
        DataError: They are of another rank, or there are none.
    """
    array = numeric_array("rewards", rewards)
    if array.ndim != 1:
        hint = " Use rewards[:, 0]." if array.ndim == 2 and array.shape[1] == 1 else ""
        raise DataError(f"rewards has shape {array.shape}; expected [T], one number per step.{hint}")
    if len(array) == 0:
        raise DataError("The episode has no steps. Leave empty episodes out.")
    return array


def check_finite(name: str, array: Array, *, first_row: int = 0) -> None:
    """Check that `array [T, ...]` has neither NaN nor infinity.

    Args:
        name: What the message calls it.
        array: Any numeric array; only floats can fail.
        first_row: The number of its first row, where it is a part of something longer.

    Raises:
        DataError: It has; the message names the first such row.
    """
    if array.dtype.kind != "f" or array.size == 0:
        return
    rows = array.reshape(1) if array.ndim == 0 else array
    step = max(1, _CHECK_BLOCK * len(rows) // rows.size)
    for start in range(0, len(rows), step):
        finite = np.isfinite(rows[start : start + step])
        if not finite.all():
            row = int(np.argmin(finite.reshape(len(finite), -1).all(axis=1))) + start
            bad = rows[row][~np.isfinite(rows[row])].flat[0]
            raise DataError(
                f"{name} has {bad} in row {first_row + row}; expected finite numbers. Find out where it comes from, "
                f"or leave that episode out."
            )


def check_obs_key(name: str, key: Any) -> None:
    """Check that the key of a dict observation can name a column and an array in a file.

    Raises:
        DataError: It cannot.
    """
    if not isinstance(key, str) or not key or not key.isprintable() or "/" in key or "\\" in key:
        raise DataError(f"{name} has the key {key!r}; expected printable text without slashes. Rename it.")


def _map_obs(name: str, obs: Any) -> ObsArray:
    if not isinstance(obs, Mapping):
        return numeric_array(name, obs)
    if not obs:
        raise DataError(f"{name} is an empty dict; expected at least one observation.")
    for key in obs:
        check_obs_key(name, key)
    return {key: numeric_array(f"{name}.{key}", value) for key, value in obs.items()}


def _check_rows(name: str, column: Array, steps: int) -> None:
    if column.ndim == 0 or len(column) != steps:
        got = "is a single number" if column.ndim == 0 else f"has {len(column)} rows"
        raise DataError(
            f"{name} {got}, but rewards has {steps}. Every column needs one row per step; an observation after the "
            f"last step goes into final_obs."
        )


def _checked_final_obs(final_obs: Any, obs: ObsArray) -> ObsArray | None:
    if final_obs is None:
        return None
    final = _map_obs("final_obs", final_obs)
    if isinstance(final, dict) != isinstance(obs, dict):
        raise DataError("obs and final_obs must both be dicts, or both be arrays.")
    rows, finals = named_obs(obs), named_obs(final)
    for name in finals:
        if name not in rows:
            raise DataError(f"final_obs has {name!r}, which obs has not. {nearest(name, rows)}")
    for name, row in rows.items():
        if name not in finals:
            raise DataError(f"final_obs lacks {name!r}. It needs every key that obs has.")
        if finals[name].shape != row.shape[1:]:
            raise DataError(
                f"final_obs ({name}) has shape {finals[name].shape}; expected {row.shape[1:]}, one row of obs."
            )
        check_finite(f"final_obs ({name})", finals[name])
    return final


def _one_flag(name: str, value: Any) -> bool:
    flag = np.asarray(value)
    if flag.ndim != 0 or flag.dtype.kind not in "biuf" or flag not in (0, 1):
        raise DataError(f"{name} is {value!r}; expected True or False for the whole episode.")
    return bool(flag)
