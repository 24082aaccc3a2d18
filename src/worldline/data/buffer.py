"""ReplayBuffer: episodes in memory, and windows of them as batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldline.data.block import EpisodeBlock
from worldline.data.encode import encode_ending
from worldline.data.formats import npz
from worldline.data.formats.catalog import read_recording
from worldline.data.rows import RowEncoder
from worldline.data.sampling import EpisodeSampler, split_episodes
from worldline.data.shapes import positive
from worldline.data.store import RowStore
from worldline.episode import Array, DataSpec, Episode, ObsShape, checked_rewards, unnamed_obs
from worldline.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from worldline.data.formats.recording import Recording


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
        self._encoder = RowEncoder(obs_shape, action_dim, obs_dtype, action_sizes)
        super().__init__()
        self._store: RowStore | None = None
        self._meta: list[Mapping[str, Any]] = []  # one per episode added; the store knows how many were evicted

    def __repr__(self) -> str:
        return (
            f"ReplayBuffer({self.num_transitions:,} of {self._capacity:,} transitions, {self.num_episodes:,} episodes, "
            f"obs_shape={self._encoder.obs_shape}, action_dim={self._encoder.action_dim})"
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
        spec = self._encoder.spec
        if spec is None:
            raise DataError(
                "The buffer is empty, so the type of its actions is not known. Add an episode, or pass action_sizes."
            )
        return spec

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
        parts = split_episodes(self.num_episodes, held_out, seed=seed)
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
        npz.write(Path(path), self._store, self.spec, meta=self._meta, capacity=self._capacity, compress=compress)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, max_bytes: int | None = None, obs_keys: Sequence[str] | None = None
    ) -> ReplayBuffer:
        """Read a buffer from a file or folder of any format; see `data.formats`.

        Args:
            path: The file or folder.
            max_bytes: The most that its arrays may take, instead of the format's own limit.
            obs_keys: The observations to read, where they are a dict; None: all.

        Raises:
            FileError: It is missing, damaged, hostile or of no format that is known.
            DataError: Its arrays do not fit together, or hold NaN.
        """
        with read_recording(path, max_bytes=max_bytes, obs_keys=obs_keys) as recording:
            return cls.from_recording(recording)

    @classmethod
    def from_recording(cls, recording: Recording) -> ReplayBuffer:
        """Return a buffer with all episodes of an open file.

        Raises:
            FileError: The file is damaged.
            DataError: Its episodes do not fit together, or hold NaN.
        """
        spec = recording.spec
        buffer = cls(
            recording.num_steps if recording.capacity is None else recording.capacity,
            spec.obs_shape,
            spec.action_dim,
            recording.obs_dtype,
            action_sizes=spec.action_sizes,
        )
        for block in recording.checked_blocks():
            buffer._add_block(block)
        return buffer

    def _add_block(self, block: EpisodeBlock) -> None:
        columns, closing = self._encoder.encode(block)
        # Nothing can fail from here on.
        if self._store is None:
            self._store = RowStore(self._encoder.layout, self._capacity)
        self._store.append(columns, closing, block)
        self._meta.extend(block.meta)
        del self._meta[: len(self._meta) - self._store.num_episodes]

    def _episode_store(self) -> RowStore:
        if self._store is None:
            raise DataError("The buffer is empty. Add an episode before you sample.")
        return self._store

    def _episode_meta(self, index: int) -> Mapping[str, Any]:
        return self._meta[index]

    def _subset(self, indices: Array) -> ReplayBuffer:
        assert self._store is not None
        rows = self._encoder
        subset = ReplayBuffer(
            int(self._store.steps[indices].sum()),
            rows.obs_shape,
            rows.action_dim,
            unnamed_obs(rows.obs_dtypes),
            action_sizes=rows.action_sizes,
        )
        for index in indices.tolist():
            subset.add(self._episode(index))
        return subset
