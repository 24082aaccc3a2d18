"""ReplayBuffer: episodes in memory, and windows of them as batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.batch import Batch, BatchRequest, share
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
from worldline.data.shapes import (
    check_obs_shapes,
    checked_dtypes,
    checked_shape,
    checked_sizes,
    named_shapes,
    positive,
)
from worldline.data.store import OBS, TERMINATION, RowStore
from worldline.data.windows import Windows
from worldline.device import move, resolve_device
from worldline.episode import Array, DataSpec, Episode, ObsShape, checked_rewards, unnamed_obs
from worldline.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

DEFAULT_SEQ_LEN = 50  # rows of a window where none are asked for, as in `TrainingConfig.sequence_length`


class ReplayBuffer:
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
        self._store: RowStore | None = None
        self._meta: list[Mapping[str, Any]] = []  # one per episode added; the store knows how many were evicted
        self._windows: dict[tuple[int, bool], Windows] = {}  # by number of rows and whether padded
        self._seed = 0
        self._step = 0
        self._place = (0, 1)  # which process's share to gather: its rank, and how many there are

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

    def sample(
        self,
        batch_size: int | BatchRequest,
        seq_len: int | None = None,
        device: str | torch.device = "cpu",
        *,
        pad_end: bool = False,
    ) -> Batch:
        """Return the windows that belong to the current step, and go on to the next.

        Uniform over all windows; `data.windows` says which there are, and that the order is a function of (seed, step).
        The batch owns its memory. Discrete actions are one-hot, observations have the dtype they are stored in.

        Args:
            batch_size: B, the number of windows; or a `BatchRequest` with all three.
            seq_len: T, the number of rows of each; None means 50.
            device: Where the tensors shall be. Copies to CUDA go through pinned memory and are not waited for.
            pad_end: Whether windows begin at every step, and are padded beyond the end of the episode.

        Raises:
            DataError: The buffer is empty.
            ConfigError: `batch_size` or `seq_len` is less than 1, or the device is not here.
        """
        if isinstance(batch_size, BatchRequest):
            request = batch_size
            batch_size, seq_len, device = request.batch_size, request.seq_len, request.device
        windows = self._windows_of(DEFAULT_SEQ_LEN if seq_len is None else seq_len, pad_end)
        drawn = windows.draw(positive("batch_size", batch_size), seed=self._seed, step=self._step)
        batch = self._batch(windows.gather(drawn[share(batch_size, *self._place)]), device)
        self._step += 1
        return batch

    def seek(self, *, seed: int, step: int, rank: int = 0, num_ranks: int = 1) -> None:
        """Make the next `sample` the one of `step` (0-based) under `seed`. A new buffer stands at seed 0, step 0.

        Of several processes, each gets its share of the windows that one alone would get: `batch.share` of them.

        Raises:
            ConfigError: One of them is negative, or there is no such process.
        """
        if seed < 0 or step < 0 or not 0 <= rank < num_ranks:
            got = f"seed {seed}, step {step}, rank {rank} of {num_ranks}"
            raise ConfigError(f"seek got {got}; expected numbers from 0 on, and a rank below their number.")
        self._seed, self._step, self._place = int(seed), int(step), (int(rank), int(num_ranks))

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

    def _windows_of(self, seq_len: int, pad_end: bool) -> Windows:
        store = self._store
        if store is None:
            raise DataError("The buffer is empty. Add an episode before you sample.")
        windows = self._windows.get((seq_len, pad_end))
        if windows is None or windows.version != store.version:
            self._windows = {key: value for key, value in self._windows.items() if value.version == store.version}
            windows = Windows(store, positive("seq_len", seq_len), pad_end=pad_end)
            self._windows[seq_len, pad_end] = windows
        return windows

    def _batch(self, windows: dict[str, Array], device: str | torch.device) -> Batch:
        import torch

        tensors = {name: torch.from_numpy(window) for name, window in windows.items()}
        if device != "cpu":
            place = torch.device(resolve_device(device))
            tensors = {name: move(tensor, place) for name, tensor in tensors.items()}
        terminations, is_first, step_mask, obs_mask = tensors["flags"].unbind(-1)
        return Batch(
            obs=unnamed_obs({name: tensors[name] for name in self._shapes}),
            actions=tensors["actions"],
            rewards=tensors["rewards"],
            terminations=terminations,
            is_first=is_first,
            step_mask=step_mask,
            obs_mask=obs_mask,
            extras={"task": tensors["task"]} if "task" in tensors else {},
        )

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
