"""What everything does that holds episodes in columns: windows of them as batches, and statistics of them."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.batch import PLAIN_WINDOWS, Batch, BatchRequest, WindowSpec, share
from worldline.data.commands import commands_of_rows
from worldline.data.shapes import positive
from worldline.data.store import is_obs, pieces, read_episode
from worldline.data.windows import Windows
from worldline.device import move, resolve_device
from worldline.episode import Array, DataSpec, Episode, is_image, unnamed_obs
from worldline.errors import ConfigError, DataError
from worldline.statistics import ColumnStatistics

if TYPE_CHECKING:
    import torch

    from worldline.data.store import EpisodeStore

DEFAULT_SEQ_LEN = 50  # rows of a window where none are asked for, as in `TrainingConfig.sequence_length`


class EpisodeSampler(abc.ABC):
    """Windows of the episodes in a store: a `Sampler` that can `seek`."""

    def __init__(self) -> None:
        self._windows: dict[tuple[int, WindowSpec], Windows] = {}  # by number of rows and kind
        self._seed = 0
        self._step = 0
        self._place = (0, 1)  # which process's share to gather: its rank, and how many there are

    @property
    @abc.abstractmethod
    def spec(self) -> DataSpec:
        """What a model needs to know of this data."""

    @property
    @abc.abstractmethod
    def num_episodes(self) -> int:
        """Number of episodes held."""

    @property
    @abc.abstractmethod
    def num_transitions(self) -> int:
        """Number of steps held, over all episodes; also `len`."""

    @abc.abstractmethod
    def split(self, held_out: float, *, seed: int = 0) -> tuple[EpisodeSampler, EpisodeSampler]:
        """Return two such samplers, the second of the fraction `held_out` of the episodes, drawn by `seed`."""

    @abc.abstractmethod
    def _episode_meta(self, index: int) -> Mapping[str, Any]:
        """Return what is known of an episode."""

    @abc.abstractmethod
    def _episode_store(self) -> EpisodeStore:
        """Return the store, with at least one episode in it.

        Raises:
            DataError: There is none.
        """

    def __len__(self) -> int:
        return self.num_transitions

    def episodes(self) -> Iterator[Episode]:
        """Return an iterator over copies of the episodes, oldest first, with actions as they are stored."""
        for index in range(self.num_episodes):
            yield self._episode(index)

    def sample(
        self,
        batch_size: int | BatchRequest,
        seq_len: int | None = None,
        device: str | torch.device = "cpu",
        *,
        windows: WindowSpec = PLAIN_WINDOWS,
    ) -> Batch:
        """Return the windows that belong to the current step, and go on to the next.

        Uniform over all windows; `data.windows` says which there are, and that the order is a function of (seed, step).
        The batch owns its memory. Discrete actions are one-hot, observations have the dtype they are stored in.

        Args:
            batch_size: B, the number of windows; or a `BatchRequest` with all three.
            seq_len: T, the number of rows of each; None means 50.
            device: Where the tensors shall be. Copies to CUDA go through pinned memory and are not waited for.
            windows: Which windows there are, and what is in them.

        Raises:
            DataError: There are no episodes.
            ConfigError: `batch_size` or `seq_len` is less than 1, or the device is not here.
        """
        if isinstance(batch_size, BatchRequest):
            request = batch_size
            batch_size, seq_len, device = request.batch_size, request.seq_len, request.device
        found = self.windows_of(DEFAULT_SEQ_LEN if seq_len is None else seq_len, windows)
        drawn = found.draw(positive("batch_size", batch_size), seed=self._seed, step=self._step)
        batch = _batch(found.gather(drawn[share(batch_size, *self._place)]), device)
        self._step += 1
        return batch

    def seek(self, *, seed: int, step: int, rank: int = 0, num_ranks: int = 1) -> None:
        """Make the next `sample` the one of `step` (0-based) under `seed`. A new sampler stands at seed 0, step 0.

        Of several processes, each gets its share of the windows that one alone would get: `batch.share` of them.

        Raises:
            ConfigError: One of them is negative, or there is no such process.
        """
        if seed < 0 or step < 0 or not 0 <= rank < num_ranks:
            got = f"seed {seed}, step {step}, rank {rank} of {num_ranks}"
            raise ConfigError(f"seek got {got}; expected numbers from 0 on, and a rank below their number.")
        self._seed, self._step, self._place = int(seed), int(step), (int(rank), int(num_ranks))

    def statistics(self) -> dict[str, ColumnStatistics]:
        """Return the statistics of every column over all steps, by name; of "commands" too, but not of images.

        Raises:
            DataError: There are no episodes.
        """
        store = self._episode_store()
        columns = {
            name: column
            for name, column in store.columns.items()
            if name in ("actions", "rewards") or (is_obs(name) and not is_image(column.shape[1:]))
        }
        columns["commands"] = commands_of_rows(store.columns["rewards"], store.first_rows, store.steps)
        return {name: ColumnStatistics.of(pieces(store, column)) for name, column in columns.items()}

    def windows_of(self, seq_len: int, spec: WindowSpec = PLAIN_WINDOWS) -> Windows:
        """Return the windows of T rows that there are, to be gathered by number; valid until an episode is added.

        Raises:
            DataError: There are no episodes.
            ConfigError: `seq_len` is less than 1.
        """
        store = self._episode_store()
        windows = self._windows.get((seq_len, spec))
        if windows is None or windows.version != store.version:
            self._windows = {key: value for key, value in self._windows.items() if value.version == store.version}
            windows = Windows(store, positive("seq_len", seq_len), spec)
            self._windows[seq_len, spec] = windows
        return windows

    def _episode(self, index: int) -> Episode:
        return read_episode(self._episode_store(), index, self._episode_meta(index))


def split_episodes(num_episodes: int, held_out: float, *, seed: int) -> tuple[Array, Array]:
    """Return the numbers of the episodes to keep and of those to hold out, both in order and at least one of each.

    Raises:
        ConfigError: `held_out` is not between 0 and 1.
        DataError: There are fewer than two episodes.
    """
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out is {held_out}; expected a fraction between 0 and 1, such as 0.1.")
    if num_episodes < 2:
        raise DataError(f"A buffer with {num_episodes} episodes cannot be split. It needs at least two.")
    count = min(max(1, round(held_out * num_episodes)), num_episodes - 1)
    chosen = np.random.default_rng(seed).permutation(num_episodes)[:count]
    return np.setdiff1d(np.arange(num_episodes), chosen), np.sort(chosen)


def _batch(windows: dict[str, Array], device: str | torch.device) -> Batch:
    import torch

    tensors = {name: torch.from_numpy(window) for name, window in windows.items()}
    if device != "cpu":
        place = torch.device(resolve_device(device))
        tensors = {name: move(tensor, place) for name, tensor in tensors.items()}
    terminations, is_first, step_mask, obs_mask = tensors["flags"].unbind(-1)
    return Batch(
        obs=unnamed_obs({name: tensor for name, tensor in tensors.items() if is_obs(name)}),
        actions=tensors["actions"],
        rewards=tensors["rewards"],
        terminations=terminations,
        is_first=is_first,
        step_mask=step_mask,
        obs_mask=obs_mask,
        commands=tensors.get("commands"),
        extras={"task": tensors["task"]} if "task" in tensors else {},
    )
