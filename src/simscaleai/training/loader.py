"""A `DataLoader` as data of Worldline's trainer: its samples in an order that is a function of (seed, step).

Such an order needs no iterator to be saved, and no sample to be read again: step 100,000 of a resumed run begins at
once. It is the same whatever `num_workers` is, and however many processes train: of N processes, each reads its part
of `batch_size * N` samples. A batch is read under a seed of its own, so random transforms repeat as well.

Data that are in memory are read by the process that trains, whatever `num_workers` is: to receive a batch from
another process takes longer than to copy it (200 batches of 32 states: 1.5 ms of CPU each against 0.2 ms).

A loader with a sampler of its own, or over a stream, is iterated as it is.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from simscaleai.training.carrier import carry, columns_of
from worldline.batch import Batch, share
from worldline.errors import ConfigError, DataError
from worldline.protocols import HasStatistics
from worldline.seeding import repeatable
from worldline.statistics import ColumnStatistics

_MAX_MEASURED = 10_000  # samples that are read for statistics where the data set has none
_MEASURED_AT_A_TIME = 256

# Which samples to read, and the seed under which to.
Request: TypeAlias = "tuple[int, list[int]]"


@runtime_checkable
class GathersSamples(Protocol):
    """A data set that reads several samples at once."""

    def __getitems__(self, indices: list[int], /) -> Sequence[Any]:
        """Return the samples."""
        ...


@runtime_checkable
class TransformsSamples(Protocol):
    """A data set whose samples may be something else than what it has recorded."""

    @property
    def transform(self) -> object:
        """What makes them of it; None: they are as they were recorded."""
        ...


@runtime_checkable
class GathersBatches(Protocol):
    """A data set that makes batches as `default_collate` would."""

    @property
    def is_at_hand(self) -> bool:
        """Whether its batches are copies from memory, with no code run for each sample."""
        ...

    def gather(self, indices: list[int], /) -> Mapping[str, Any]:
        """Return a batch of the samples."""
        ...


class OrderedLoader:
    """The samples of a loader that draws them at random, or one after the other; a `Sampler` that can `seek`.

    Attributes:
        batch_size: Samples of a step in each process.

    Raises:
        DataError: There is no sample, or no whole batch where incomplete ones are dropped.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        assert loader.batch_size is not None
        self.batch_size = loader.batch_size
        self._loader = loader
        self._order = _Order(loader)
        self._fetch = _Fetch(loader.dataset, loader.collate_fn)
        self._reads_itself = loader.num_workers == 0 or _is_at_hand(loader)
        self._workers: Iterator[Any] | None = None  # what they read next is the batch of `_prefetched`
        self._prefetched: tuple[int, ...] = ()
        self._seed, self._step, self._rank, self._num_ranks = 0, 0, 0, 1

    def seek(self, *, seed: int, step: int, rank: int = 0, num_ranks: int = 1) -> None:
        """Make the next `sample` the one of `step` (0-based) under `seed`, or one process's share of it."""
        self._seed, self._step, self._rank, self._num_ranks = seed, step, rank, num_ranks

    def sample(self, batch_size: int, seq_len: int | None = None, device: str | torch.device = "cpu") -> Batch:
        """Return this process's share of a batch of `batch_size` samples, and go on to the next step."""
        is_real, _ = self._share(batch_size, self._step)
        samples = self._read(batch_size)
        self._step += 1
        return carry(samples, torch.device(device), are_real=is_real)

    def statistics(self) -> dict[str, ColumnStatistics]:
        """Return the statistics of the data set: its own, or those of some of its samples."""
        return statistics_of(self._loader)

    def close(self) -> None:
        """End the processes that load data."""
        self._workers = None

    def _read(self, batch_size: int) -> Any:
        if self._reads_itself:
            return self._fetch[self._request(batch_size, self._step)]
        place = (batch_size, self._seed, self._step, self._rank, self._num_ranks)
        if self._workers is None or self._prefetched != place:
            self._workers = self._start(batch_size)
        self._prefetched = (batch_size, self._seed, self._step + 1, self._rank, self._num_ranks)
        return next(self._workers)

    def _start(self, batch_size: int) -> Iterator[Any]:
        """Start processes that read ahead from the present step on."""
        loader = self._loader
        requests = (self._request(batch_size, step) for step in itertools.count(self._step))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # the loader has said so
            reader = DataLoader(
                self._fetch,
                sampler=_Endless(requests),
                batch_size=None,
                collate_fn=_same,
                num_workers=loader.num_workers,
                pin_memory=loader.pin_memory and torch.cuda.is_available(),
                timeout=loader.timeout,
                worker_init_fn=loader.worker_init_fn,
                multiprocessing_context=loader.multiprocessing_context,
                prefetch_factor=loader.prefetch_factor,
                generator=torch.Generator(),  # the iterator draws a seed, which must not come from the model's noise
            )
            return iter(reader)

    def _request(self, batch_size: int, step: int) -> Request:
        _, indices = self._share(batch_size, step)
        # Every process has transforms of its own.
        seed = np.random.SeedSequence((self._seed, step, self._rank)).generate_state(1)[0]
        return int(seed), indices

    def _share(self, batch_size: int, step: int) -> tuple[bool, list[int]]:
        """Return which samples this process reads at `step`, and whether they count.

        The last batch of an epoch may have fewer samples than there are processes: one that is left without any reads
        a sample that does not count.
        """
        whole = self._order.indices(batch_size, seed=self._seed, step=step)
        own = whole[share(len(whole), self._rank, self._num_ranks)]
        return len(own) > 0, (own if len(own) else whole[:1]).tolist()


class PlainLoader:
    """Any other loader, or any iterable of dicts: iterated as it is, from its start again when it ends."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        for samples in self._loader:
            yield carry(samples, torch.device("cpu"))  # the trainer moves it

    def statistics(self) -> dict[str, ColumnStatistics]:
        """Return the statistics of the data set: its own, or those of the first samples."""
        return statistics_of(self._loader)

    def close(self) -> None:
        """Do nothing."""


def open_loader(loader: object, *, num_ranks: int) -> OrderedLoader | PlainLoader:
    """Return `loader` as data for the trainer.

    Raises:
        ConfigError: It is no iterable, or `num_ranks` processes cannot share it.
    """
    if isinstance(loader, DataLoader) and _has_known_order(loader):
        return OrderedLoader(loader)
    if not isinstance(loader, Iterable):
        raise ConfigError(f"A loader is a torch DataLoader, or an iterable of dicts; got a {type(loader).__name__}.")
    if num_ranks > 1:
        raise ConfigError(
            f"A loader with a sampler of its own cannot be shared by {num_ranks} processes. Use "
            "DataLoader(dataset, batch_size, shuffle=True): every process then reads its part of each batch."
        )
    return PlainLoader(loader)


def statistics_of(loader: Iterable[Any]) -> dict[str, ColumnStatistics]:
    """Return the statistics of all numbers of a loader's data set, by column: "obs.KEY", "actions".

    Those that the data set has itself, also of a part of it; else, and where it transforms its samples, those of at
    most 10,000 samples.
    """
    dataset: Any = loader.dataset if isinstance(loader, DataLoader) else None
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    is_transformed = isinstance(dataset, TransformsSamples) and dataset.transform is not None
    if isinstance(dataset, HasStatistics) and not is_transformed:
        return dict(dataset.statistics())
    pieces: dict[str, list[Any]] = {}
    for samples in _measured(loader):
        columns = columns_of(samples)
        leading = columns["actions"].ndim - 1 if "actions" in columns else 1  # [B], or [B, T] of windows
        for name, tensor in columns.items():
            if leading <= tensor.ndim <= leading + 2:  # what has more is an image
                pieces.setdefault(name, []).append(tensor.flatten(0, leading - 1).numpy())
    return {name: ColumnStatistics.of(rows) for name, rows in pieces.items()}


def _measured(loader: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    if isinstance(loader, DataLoader) and _has_known_order(loader):
        num = _length(loader.dataset)
        chosen = np.linspace(0, num - 1, min(num, _MAX_MEASURED)).astype(np.int64).tolist()
        fetch = _Fetch(loader.dataset, loader.collate_fn)
        for begin in range(0, len(chosen), _MEASURED_AT_A_TIME):
            yield fetch[0, chosen[begin : begin + _MEASURED_AT_A_TIME]]
        return
    count = 0
    for samples in loader:
        yield samples
        count += len(next(iter(columns_of(samples).values())))
        if count >= _MAX_MEASURED:
            return


def _has_known_order(loader: DataLoader[Any]) -> bool:
    """Return whether the loader draws single samples as torch's own samplers do."""
    sampler = loader.sampler
    is_plain = type(loader.batch_sampler) is BatchSampler and not isinstance(loader.dataset, IterableDataset)
    if type(sampler) is RandomSampler:
        return is_plain and not sampler.replacement and sampler.num_samples == _length(loader.dataset)
    return is_plain and type(sampler) in (SequentialSampler, DistributedSampler)


class _Order:
    """Which samples each step has: those of a random order of all, another in each epoch, or one after the other."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        sampler = loader.sampler
        self._num_samples = _length(loader.dataset)
        self._drops_last = loader.drop_last
        self._shuffles = sampler.shuffle if isinstance(sampler, DistributedSampler) else type(sampler) is RandomSampler
        generator = sampler.generator if isinstance(sampler, RandomSampler) else None
        self._own_seed = 0 if generator is None else generator.initial_seed() % (1 << 64)
        self._epochs: dict[tuple[int, int], Any] = {}  # the orders of the last two: what reads ahead is in the next
        if self._num_samples == 0:
            raise DataError("The data set is empty. Check its path and the length of its samples.")

    def indices(self, batch_size: int, *, seed: int, step: int) -> Any:
        """Return the samples of a step, an array of at most `batch_size`."""
        whole, rest = divmod(self._num_samples, batch_size)
        num_batches = whole + (rest > 0 and not self._drops_last)
        if num_batches == 0:
            raise DataError(
                f"The loader drops incomplete batches, and {self._num_samples} samples make none of {batch_size}. "
                "Lower batch_size, or set drop_last=False."
            )
        epoch, position = divmod(step, num_batches)
        begin = position * batch_size
        end = min(begin + batch_size, self._num_samples)
        return self._permutation(seed, epoch)[begin:end] if self._shuffles else np.arange(begin, end)

    def _permutation(self, seed: int, epoch: int) -> Any:
        if (seed, epoch) not in self._epochs:
            generator = np.random.default_rng((seed, epoch, self._own_seed))
            kept = list(self._epochs.items())[-1:]
            self._epochs = dict([*kept, ((seed, epoch), generator.permutation(self._num_samples))])
        return self._epochs[seed, epoch]


class _Fetch(Dataset[Any]):
    """Reads batches; in other processes, too."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset = dataset
        self._collate = collate

    def __getitem__(self, request: Request) -> Any:
        seed, indices = request
        with repeatable(seed):
            dataset = self._dataset
            if self._collate is default_collate:
                dataset, indices = _whole(dataset, indices)
                if isinstance(dataset, GathersBatches):
                    return dataset.gather(indices)
            if isinstance(dataset, GathersSamples):
                return self._collate(list(dataset.__getitems__(indices)))
            return self._collate([dataset[index] for index in indices])


def _whole(dataset: Any, indices: list[int]) -> tuple[Any, list[int]]:
    """Return the data set that a part is of, and the samples by its numbers."""
    while type(dataset) is Subset:
        dataset, indices = dataset.dataset, [dataset.indices[index] for index in indices]
    return dataset, indices


class _Endless:
    """What a `DataLoader` takes for a sampler."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Request]:
        return self._requests


def _is_at_hand(loader: DataLoader[Any]) -> bool:
    """Tell whether batches are copies from memory, and nobody asked for something to be done in other processes."""
    dataset, _ = _whole(loader.dataset, [])
    is_plain = loader.collate_fn is default_collate and loader.worker_init_fn is None
    return is_plain and isinstance(dataset, GathersBatches) and dataset.is_at_hand


def _same(batch: Any) -> Any:
    return batch


def _length(dataset: Any) -> int:
    return len(dataset)
