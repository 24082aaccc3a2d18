"""ReplayBuffer: episodes in memory, and windows of them as batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.encode import (
    convert,
    data_spec,
    encode_actions,
    encode_ending,
    infer_action_sizes,
    settle_obs_dtype,
)
from worldline.data.formats import npz
from worldline.data.sampling import EpisodeSampler
from worldline.data.shapes import (
    check_obs_shapes,
    checked_dtypes,
    checked_shape,
    checked_sizes,
    named_shapes,
    positive,
)
from worldline.data.store import OBS, TERMINATION, RowStore
from worldline.episode import Array, DataSpec, Episode, ObsShape, checked_rewards, unnamed_obs
from worldline.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt


class ReplayBuffer(EpisodeSampler):
    """Episodes in columns, sampled in windows that never cross from one to the next.

    The oldest episodes make room for new ones, whole ones at a time, once there are more than `capacity` steps.

    Args:
        capacity: The most transitions (steps) to keep.
        obs_shape: Shape of one observation, or a dict of shapes.
        action_dim: A: the number of choices of a discrete action, or of values of a continuous one.
        obs_dtype: What observations are stored as, one dtype or a dict of them. None takes the first episode's: images
            (uint8 of rank 2 or more) stay uint8, all else becomes float32. See `data.encode.convert` for what fits.
        action_sizes: `()` for continuous actions, `(A,)` for a discrete one, the choices of each of several (summing to
            A) for multi-discrete ones. None tells it from the first episode.

    Raises:
        ConfigError: A setting is out of range, or they contradict each other.

    >>> import numpy as np
    >>> buffer = ReplayBuffer(capacity=1000, obs_shape=(4,), action_dim=2)
    >>> buffer.add_episode(np.zeros((20, 4)), np.ones(20, dtype=int), np.ones(20), terminated=True)
    >>> batch = buffer.sample(batch_size=8, seq_len=5)
    >>> batch.obs.shape, batch.actions[0, 0]
    (torch.Size([8, 5, 4]), tensor([0., 1.]))
    """

    def __init__(
        self,
        capacity: int,
        obs_shape: ObsShape,
        action_dim: int,
        obs_dtype: npt.DTypeLike | Mapping[str, npt.DTypeLike] | None = None,
        *,
        action_sizes: tuple[int, ...] | None = None,
    ) -> None:
        self._capacity = positive("capacity", capacity)
        self._action_dim = positive("action_dim", action_dim)
        self._obs_shape = checked_shape(obs_shape)
        self._shapes = named_shapes(self._obs_shape)
        self._obs_dtypes = checked_dtypes(obs_dtype, self._obs_shape)
        self._action_sizes = None if action_sizes is None else checked_sizes(action_sizes, self._action_dim)
        super().__init__()
        self._store: RowStore | None = None
        self._meta: list[Mapping[str, Any]] = []  # one per episode added; the store knows how many were evicted

    def __len__(self) -> int:
        return self.num_transitions

    def __repr__(self) -> str:
        return (
            f"ReplayBuffer({self.num_transitions:,} of {self._capacity:,} transitions, {self.num_episodes:,} episodes, "
            f"obs_shape={self._obs_shape}, action_dim={self._action_dim})"
        )

    @property
    def capacity(self) -> int:
        """The most transitions the buffer keeps."""
        return self._capacity

    @property
    def num_episodes(self) -> int:
        """Number of episodes held."""
        return 0 if self._store is None else self._store.num_episodes

    @property
    def num_transitions(self) -> int:
        """Number of steps held, over all episodes; also `len(buffer)`."""
        return 0 if self._store is None else self._store.num_steps

    @property
    def spec(self) -> DataSpec:
        """What a model needs to know of this data.

        Raises:
            DataError: Nothing was added yet and `action_sizes` was not given, so discrete or continuous is not known.
        """
        sizes = self._action_sizes
        if sizes is None:
            raise DataError(
                "The buffer is empty, so the type of its actions is not known. Add an episode, or pass action_sizes."
            )
        return data_spec(self._obs_shape, self._action_dim, sizes)

    def add_episode(
        self,
        obs: Any,
        actions: Any,
        rewards: Any,
        dones: Any = None,
        *,
        terminated: Any = None,
        truncated: Any = None,
        final_obs: Any = None,
    ) -> None:
        """Add one episode of T steps.

        Pass `terminated` and `truncated` as `env.step` returns them. `dones` alone is taken where nothing better is
        known: a last True counts as terminated although it may have been a time limit, all False as truncated.

        Args:
            obs: `[T, *obs]`, or a dict of them.
            actions: `[T, A]`; or indices, `[T]` or `[T, 1]` (discrete) or `[T, K]` (multi-discrete), which are stored
                one-hot.
            rewards: `[T]`.
            dones: `[T]` of which only the last may be True, or one flag.
            terminated: The same, True where the environment ended the episode for good.
            truncated: The same, True where a time limit cut it off.
            final_obs: `[*obs]`, what the last step led to; without it, the observation after the last step is unknown.

        Raises:
            DataError: Something does not fit; the buffer is as it was before.
        """
        rewards = checked_rewards(rewards)
        is_terminated, is_truncated = encode_ending(len(rewards), dones, terminated, truncated)
        self.add(
            Episode(
                obs=obs,
                actions=actions,
                rewards=rewards,
                terminated=is_terminated,
                truncated=is_truncated,
                final_obs=final_obs,
            )
        )

    def add(self, episode: Episode) -> None:
        """Add one episode.

        Raises:
            DataError: It does not fit this buffer, which is as it was before.
        """
        if len(episode) > self._capacity:
            raise DataError(
                f"The episode has {len(episode)} steps, but the buffer's capacity is {self._capacity}. Create it with "
                f"a larger capacity."
            )
        self._add_block(EpisodeBlock.of(episode))

    def episodes(self) -> Iterator[Episode]:
        """Return an iterator over copies of the episodes, oldest first, with actions as they are stored."""
        for index in range(self.num_episodes):
            yield self._episode(index)

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Episode],
        *,
        action_dim: int,
        capacity: int | None = None,
        obs_dtype: npt.DTypeLike | Mapping[str, npt.DTypeLike] | None = None,
        action_sizes: tuple[int, ...] | None = None,
    ) -> ReplayBuffer:
        """Return a buffer with these episodes, just large enough unless `capacity` says otherwise.

        Raises:
            DataError: There are none, or one does not fit the others.
        """
        items = list(episodes)
        if not items:
            raise DataError("There are no episodes, so the shape of an observation is not known. Pass at least one.")
        first = items[0].obs
        obs_shape: ObsShape = (
            {key: column.shape[1:] for key, column in first.items()} if isinstance(first, dict) else first.shape[1:]
        )
        total = sum(len(episode) for episode in items)
        buffer = cls(capacity or total, obs_shape, action_dim, obs_dtype, action_sizes=action_sizes)
        for episode in items:
            buffer.add(episode)
        return buffer

    def split(self, held_out: float, *, seed: int = 0) -> tuple[ReplayBuffer, ReplayBuffer]:
        """Return two buffers, the second with the fraction `held_out` of the episodes, drawn by `seed`.

        Each has at least one episode. Both are copies.

        Raises:
            ConfigError: `held_out` is not between 0 and 1.
            DataError: There are fewer than two episodes.
        """
        if not 0 < held_out < 1:
            raise ConfigError(f"held_out is {held_out}; expected a fraction between 0 and 1, such as 0.1.")
        if self.num_episodes < 2:
            raise DataError(f"A buffer with {self.num_episodes} episodes cannot be split. It needs at least two.")
        count = min(max(1, round(held_out * self.num_episodes)), self.num_episodes - 1)
        chosen = np.random.default_rng(seed).permutation(self.num_episodes)[:count]
        parts = (np.setdiff1d(np.arange(self.num_episodes), chosen), np.sort(chosen))
        train, test = (self._subset(part) for part in parts)
        return train, test

    def save(self, path: str | os.PathLike[str], *, compress: bool = False) -> None:
        """Write the buffer as an `.npz` file, whole or not at all; see `data.formats.npz`.

        Raises:
            DataError: The buffer is empty.
            FileError: The file cannot be written.
        """
        if self._store is None:
            raise DataError("The buffer is empty; there is nothing to save. Add an episode first.")
        npz.write(path, self._store, self.spec, meta=self._meta, compress=compress)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int | None = None) -> ReplayBuffer:
        """Read a buffer from an `.npz` file; see `data.formats.npz`.

        Raises:
            FileError: The file is missing, damaged or hostile.
            DataError: Its arrays do not fit together, or hold NaN.
        """
        with npz.read(path, max_bytes=max_bytes) as recording:
            spec = recording.spec
            buffer = cls(
                recording.capacity,
                spec.obs_shape,
                spec.action_dim,
                recording.obs_dtype,
                action_sizes=spec.action_sizes,
            )
            for block in recording.blocks():
                buffer._add_block(block)
        return buffer

    def _add_block(self, block: EpisodeBlock) -> None:
        check_obs_shapes(block.obs, self._shapes)
        sizes = self._action_sizes
        if sizes is None:
            sizes = infer_action_sizes(block.actions, self._action_dim)
        dtypes = {
            name: settle_obs_dtype(column.dtype, column.ndim) for name, column in block.obs.items()
        } | self._obs_dtypes
        columns = {name: convert(name, column, dtypes[name]) for name, column in block.obs.items()}
        closing = {name: convert(f"final_obs ({name})", block.final_obs[name], dtypes[name]) for name in columns}
        columns["actions"] = encode_actions(block.actions, action_dim=self._action_dim, action_sizes=sizes)
        columns["rewards"] = convert("rewards", block.rewards, np.dtype(np.float32))
        tasks = block.tasks()
        if self._store is not None and ((tasks is None) is ("task" in self._store.columns)):
            raise DataError('Some episodes have a task number in meta["task"] and others have none. Give it to all.')
        if tasks is not None:
            columns["task"], closing["task"] = np.repeat(tasks, np.diff(block.ends, prepend=0)), tasks
        # Nothing can fail from here on.
        self._action_sizes, self._obs_dtypes = sizes, dtypes
        if self._store is None:
            self._store = RowStore(self._layout(has_tasks=tasks is not None), self._capacity)
        self._store.append(columns, closing, block)
        self._meta.extend(block.meta)
        del self._meta[: len(self._meta) - self._store.num_episodes]

    def _layout(self, *, has_tasks: bool) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        float32, boolean = np.dtype(np.float32), np.dtype(np.bool_)
        layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
        layout = {name: (shape, self._obs_dtypes[name]) for name, shape in self._shapes.items()}
        layout |= {"actions": ((self._action_dim,), float32), "rewards": ((), float32), "flags": ((4,), boolean)}
        return layout | ({"task": ((), np.dtype(np.int64))} if has_tasks else {})

    def _episode_store(self) -> RowStore:
        if self._store is None:
            raise DataError("The buffer is empty. Add an episode before you sample.")
        return self._store

    def _episode(self, index: int) -> Episode:
        store = self._store
        assert store is not None
        row, steps = int(store.first_rows[index]), int(store.steps[index])
        columns = {name: column[row : row + steps + 1].copy() for name, column in store.columns.items()}
        obs = {name: columns[name] for name in self._shapes}
        has_final_obs = columns["flags"][-1, OBS]
        return Episode(
            obs=unnamed_obs({name: column[:-1] for name, column in obs.items()}),
            actions=columns["actions"][:-1],
            rewards=columns["rewards"][:-1],
            terminated=bool(columns["flags"][-2, TERMINATION]),
            truncated=bool(store.truncated[index]),
            final_obs=unnamed_obs({name: column[-1] for name, column in obs.items()}) if has_final_obs else None,
            meta=self._meta[index],
        )

    def _subset(self, indices: Array) -> ReplayBuffer:
        assert self._store is not None
        steps = int(self._store.steps[indices].sum())
        dtypes = unnamed_obs(self._obs_dtypes)
        subset = ReplayBuffer(steps, self._obs_shape, self._action_dim, dtypes, action_sizes=self._action_sizes)
        for index in indices.tolist():
            subset.add(self._episode(index))
        return subset
