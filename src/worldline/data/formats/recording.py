"""Recording: an open file or folder of episodes, whatever its format."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.encode import data_spec
from worldline.data.shapes import checked_sizes
from worldline.episode import Array, DataSpec, check_finite, check_obs_key, unnamed_obs
from worldline.errors import DataError, FileError

MAX_RATIO = 200  # of what the arrays take to what the file takes
FREE_BYTES = 256 << 20  # what any file may take
MAX_ROW_BYTES = 32 << 20  # of one step's observation
MAX_META_BYTES = 60_000  # of one episode's meta as JSON, where it must fit an attribute of HDF5

DAMAGED = "It is damaged or was made to do harm. Restore it from a copy, or write it again."


class Recording(abc.ABC):
    """Episodes in a file, checked for all that can be seen without reading the values. A context manager.

    What opens one (`read` of each format) has found every key, shape, dtype and size to be sound. Values are read when
    `blocks` comes to them, block by block, so that memory never holds more than one of them.
    """

    path: Path
    spec: DataSpec
    num_episodes: int
    num_steps: int
    obs_dtype: dict[str, np.dtype[Any]] | np.dtype[Any] | None = None  # None: as a buffer stores such observations
    capacity: int | None = None  # that the file asks a buffer for
    num_orphan_rows: int = 0  # rows of the file that belong to no episode, and are left out
    left_out: tuple[str, ...] = ()  # observations of the file that are not read
    unread: frozenset[str] = frozenset()  # names of columns that nobody wants: `blocks` may come without them
    is_checked: bool = False  # whether opening has found all values to be finite

    @abc.abstractmethod
    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes in blocks of whole ones; values may be NaN unless `is_checked`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file."""

    def checked_blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes in blocks of whole ones, without NaN and infinity.

        Raises:
            DataError: There is one; the message names the episode.
        """
        episode = 0
        for block in self.blocks():
            if not self.is_checked:
                finals = {f"final_obs ({name})": block.final_obs[name][block.has_final_obs] for name in block.obs}
                for name, values in {**block.obs, "actions": block.actions, "rewards": block.rewards, **finals}.items():
                    check_finite(f"{self.path}, from episode {episode} on: {name}", values)
            episode += len(block.ends)
            yield block
            del block  # before the next one is read

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WrappedRecording(Recording):
    """An open file of which something is changed as it is read; all else is the same.

    Args:
        whole: The file, which this closes.
    """

    def __init__(self, whole: Recording) -> None:
        self._whole = whole
        self.path, self.spec, self.obs_dtype, self.capacity = whole.path, whole.spec, whole.obs_dtype, whole.capacity
        self.num_episodes, self.num_steps, self.num_orphan_rows = (
            whole.num_episodes,
            whole.num_steps,
            whole.num_orphan_rows,
        )
        self.left_out, self.is_checked = whole.left_out, whole.is_checked

    def close(self) -> None:
        """Close the file."""
        self._whole.close()


def check_size(path: Path, num_bytes: int, file_bytes: int, max_bytes: int | None, *, ratio: int = MAX_RATIO) -> None:
    """Check what the arrays of a file declare against what a file of its size can hold.

    Raises:
        FileError: They are beyond the limit.
    """
    limit = max(FREE_BYTES, ratio * file_bytes) if max_bytes is None else max_bytes
    if num_bytes > limit:
        raise FileError(
            f"{path} has {file_bytes:,} bytes, but its arrays would take {num_bytes:,}; the limit is {limit:,}. If you "
            f"trust the file, load it or `worldline convert` it with max_bytes={num_bytes}."
        )


def one_episode(
    where: str,
    *,
    obs: Mapping[str, Array],
    actions: Array,
    rewards: Array,
    terminated: bool,
    truncated: bool,
    final_obs: Mapping[str, Array] | None,
    meta: Mapping[str, Any],
) -> EpisodeBlock:
    """Return the block of one episode of a file, whose lengths are checked here.

    Args:
        where: The file and the episode, for messages.
        obs: `[T, *obs]` by column name.
        actions: `[T, A]`, or indices.
        rewards: `[T]`.
        terminated: Whether the last step ended the episode for good.
        truncated: Whether a time limit cut it off.
        final_obs: `[*obs]` by column name; None if it is not known.
        meta: Of the episode.

    Raises:
        DataError: There are no steps, or columns of different lengths.
    """
    steps = len(rewards)
    if rewards.ndim != 1 or steps == 0:
        raise DataError(f"{where}: rewards has shape {rewards.shape}; expected [T], one number per step, T at least 1.")
    for name, column in {**obs, "actions": actions}.items():
        if column.ndim == 0 or len(column) != steps:
            raise DataError(
                f"{where}: {name} has shape {column.shape}, but rewards has {steps} rows. Every column needs one row "
                f"per step."
            )
    final = {name: column[-1] for name, column in obs.items()} if final_obs is None else final_obs
    return EpisodeBlock(
        obs=dict(obs),
        actions=actions,
        rewards=rewards,
        ends=np.array([steps]),
        terminated=np.array([terminated]),
        truncated=np.array([truncated]),
        final_obs={name: np.asarray(value)[None] for name, value in final.items()},
        has_final_obs=np.array([final_obs is not None]),
        meta=[meta],
    )


def obs_names(path: Path, keys: list[str], *, is_plain: bool) -> dict[str, str]:
    """Return the column name of every observation of a file by its key there.

    Raises:
        DataError: There are none, or a key cannot name a column.
    """
    if not keys:
        raise DataError(f"{path} has no observations. Write at least one.")
    for key in keys:
        check_obs_key(f"{path}: observations", key.replace("/", "."))
    if is_plain:
        if len(keys) > 1:
            raise DataError(f"{path} says that it has one observation, but has {', '.join(keys[:20])}. {DAMAGED}")
        return {keys[0]: "obs"}
    return {key: f"obs.{key.replace('/', '.')}" for key in keys}


def make_spec(path: Path, shapes: Mapping[str, tuple[int, ...]], actions: Array, sizes: Any) -> DataSpec:
    """Return the spec of data whose file says `sizes`, or says nothing of them and has these first `actions`.

    Args:
        path: The file, for messages.
        shapes: Of one observation, by column name.
        actions: Where `sizes` is None: what shows the kind of the actions, `[T, A]` floats, or all indices `[N]`.
        sizes: `DataSpec.action_sizes` as the file has them, or None.

    Raises:
        DataError: A shape has a size of 0, or the actions are of no kind that there is.
    """
    for name, shape in shapes.items():
        if 0 in shape:
            raise DataError(f"{path}: {name} has shape {shape} per step; every size must be at least 1.")
    if actions.ndim > 2 or actions.size == 0:
        raise DataError(f"{path}: actions has shape {actions.shape}; expected [T, A], or [T] for discrete actions.")
    width = 1 if actions.ndim == 1 else actions.shape[1]
    if sizes is not None:
        if len(sizes) > width:
            raise DataError(f"{path}: action_sizes has {len(sizes)} numbers for actions of width {width}. {DAMAGED}")
        action_sizes = checked_sizes(tuple(int(size) for size in sizes), width)
    elif actions.dtype.kind in "iu" and width == 1:
        if actions.min() < 0 or actions.max() >= 1 << 20:
            raise DataError(f"{path}: actions has the index {actions.min()} or {actions.max()}. Expected 0 to 2**20.")
        width = max(2, int(actions.max()) + 1)
        action_sizes = (width,)
    else:
        action_sizes = ()
    return data_spec(unnamed_obs(dict(shapes)), width, action_sizes)


def split_meta(meta: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the instruction of an episode, and the rest of its `meta` as JSON; None for what there is not.

    Raises:
        DataError: It is not JSON, or too long.
    """
    rest = {key: value for key, value in meta.items() if key != "language"}
    language = meta.get("language")
    if language is not None and not isinstance(language, str):
        rest["language"], language = language, None
    try:
        text = json.dumps(rest, allow_nan=False) if rest else None
    except (TypeError, ValueError) as error:
        raise DataError(f"The meta of an episode cannot be saved as JSON: {error}. Keep to plain values.") from error
    if len(text or "") + 4 * len(language or "") > MAX_META_BYTES:
        raise DataError(f"The meta of an episode takes more than {MAX_META_BYTES:,} bytes. Keep it to a few words.")
    return language, text


def joined_meta(where: str, language: str | None, text: str | None) -> dict[str, Any]:
    """Return the `meta` that `split_meta` took apart.

    Raises:
        DataError: The text is not a JSON object.
    """
    try:
        meta = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: meta is not JSON ({error}). Leave it out.") from error
    if not isinstance(meta, dict):
        raise DataError(f"{where}: meta is not a JSON object. Leave it out.")
    return meta if language is None else {**meta, "language": language}


def meta_to_bytes(meta: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the `meta` of all episodes as one JSON text.

    Raises:
        DataError: It is not JSON, or too long.
    """
    try:
        text = json.dumps([dict(item) for item in meta], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"The meta of an episode cannot be saved as JSON: {error}. Keep to plain values.") from error
    if len(text) > max_meta_bytes(len(meta)):
        raise DataError(f"The meta of the episodes takes {len(text):,} bytes as JSON. Keep it to a few words each.")
    return text.encode()


def meta_from_bytes(path: Path, text: bytes, num_episodes: int) -> Sequence[Mapping[str, Any]]:
    """Return what `meta_to_bytes` made one text of.

    Raises:
        DataError: It is too long, or not a JSON list with one object per episode.
    """
    if len(text) > max_meta_bytes(num_episodes):
        raise DataError(f"{path}: meta is too long. Leave it out.")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: meta is not JSON ({error}). Leave it out.") from error
    if not isinstance(meta, list) or len(meta) != num_episodes or not all(isinstance(item, dict) for item in meta):
        raise DataError(f"{path}: meta must be a list of {num_episodes} objects. Leave it out.")
    return meta


def max_meta_bytes(num_episodes: int) -> int:
    """Return the most bytes of the `meta` of all episodes: parsed, JSON takes many times its length."""
    return (1 << 20) + 512 * num_episodes
