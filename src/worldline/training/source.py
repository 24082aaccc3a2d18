"""Where batches come from: one `batch(step)` over the kinds of data that a trainer accepts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch

from worldline.batch import PLAIN_WINDOWS, Batch, BatchRequest, WindowSpec, share
from worldline.errors import ConfigError, DataError
from worldline.protocols import ChoosesWindows, Commanded, Fitted, HasStatistics, Policy, Sampler, Seekable
from worldline.statistics import is_out_of_range


@runtime_checkable
class RequestSampler(Protocol):
    """A sampler that takes one `BatchRequest`."""

    def sample(self, request: BatchRequest, /) -> Batch:
        """Return the batch that `request` asks for."""
        ...


Data: TypeAlias = Sampler | RequestSampler | Iterable[Batch]


class Source:
    """The data of a training run or evaluation, or one process's share; with `num_kept`, its first batches for ever."""

    def __init__(self, draw: Callable[[], Batch], seek: Callable[[int], None] | None, *, num_kept: int = 0) -> None:
        self._draw = draw
        self._seek = seek
        self._num_kept = num_kept
        self._kept: dict[int, Batch] = {}

    @property
    def is_seekable(self) -> bool:
        """Whether the order of batches is a function of (seed, step)."""
        return self._seek is not None

    def batch(self, step: int) -> Batch:
        """Return the batch of the 0-based `step`, on the device; the next one where the data cannot seek.

        The position is set every time: whoever else samples the same data in between (an evaluation) changes nothing.
        """
        if self._num_kept:
            step %= self._num_kept
            if step not in self._kept:
                self._kept[step] = self._drawn(step).map(torch.clone)
            return self._kept[step]
        return self._drawn(step)

    def _drawn(self, step: int) -> Batch:
        if self._seek is not None:
            self._seek(step)
        return _checked(self._draw())


def open_source(
    data: Data,
    *,
    batch_size: int,
    sequence_length: int,
    device: torch.device,
    seed: int,
    windows: WindowSpec = PLAIN_WINDOWS,
    num_kept: int = 0,
    place: tuple[int, int] = (0, 1),
) -> Source:
    """Return the source of batches that `data` is, decided once by the signatures of its `sample` and `seek`.

    Of several processes, each gets its `batch.share` of the windows of every batch; `place` is (rank, num_ranks).

    A sampler that takes `windows` is told; another decides by itself which windows there are.

    Raises:
        ConfigError: `data` is no sampler and no iterable of batches, or there are fewer windows than processes.
    """
    rank, num_ranks = place
    if batch_size < num_ranks:
        raise ConfigError(
            f"batch_size is {batch_size}, which {num_ranks} processes cannot share: it is the size of the whole batch. "
            "Raise it, or start fewer processes."
        )
    several: dict[str, Any] = {"rank": rank, "num_ranks": num_ranks} if num_ranks > 1 else {}
    if isinstance(data, Sampler):  # by name only: it is either kind of sampler
        request = BatchRequest(batch_size=batch_size, seq_len=sequence_length, device=str(device))
        draw = _sampling(data.sample, request, windows)
    elif isinstance(data, Iterable):
        draw = _Cycle(data, device)
    else:
        raise ConfigError(f"{_EXPECTED}; got a {type(data).__name__}.")
    seek: Callable[[int], None] | None = None
    if isinstance(data, Seekable):
        divides = _accepts(inspect.signature(data.seek), seed=0, step=0, **several)
        seek = _seeking(data.seek, seed, several if divides else {})
        several = {} if divides else several
    return Source(_cutting(draw, **several) if several else draw, seek, num_kept=num_kept)


def windows_of(model: object) -> WindowSpec:
    """Return which windows `model` learns from."""
    return model.windows if isinstance(model, ChoosesWindows) else PLAIN_WINDOWS


def fit_once(model: object, data: object) -> None:
    """Give `model` the statistics of its first data, where it wants them and the data has them."""
    if isinstance(model, Fitted) and not model.is_fitted and isinstance(data, HasStatistics):
        model.fit(data.statistics())


def warn_of_range(model: object, batch: Batch) -> None:
    """Warn where a model is to learn actions that it cannot take. Waits for the device; rare outliers may escape it."""
    actions = batch.actions[batch.step_mask]
    if not actions.numel() or not isinstance(model, Policy | Commanded):
        return
    low, high = (end.cpu().double() for end in actions.aminmax(dim=0))
    if is_out_of_range(low.numpy(), high.numpy()).any():
        warnings.warn(
            f"The actions of the first batch are from {low.min():.4g} to {high.max():.4g}, but models act in [-1, 1] "
            "and cut off what is beyond. Scale them (worldline convert SRC DST --scale-actions LOW HIGH), and back "
            "where they are carried out.",
            stacklevel=2,
        )


def _seeking(seek: Callable[..., None], seed: int, place: dict[str, int]) -> Callable[[int], None]:
    return lambda step: seek(seed=seed, step=step, **place)


def _cutting(draw: Callable[[], Batch], *, rank: int, num_ranks: int) -> Callable[[], Batch]:
    """Return what draws whole batches and keeps this process's share of each."""

    def draw_share() -> Batch:
        batch = _checked(draw())
        if batch.batch_size < num_ranks:
            raise DataError(f"A batch has {batch.batch_size} windows, which {num_ranks} processes cannot share.")
        windows = share(batch.batch_size, rank, num_ranks)
        return batch.map(lambda tensor: tensor[windows])

    return draw_share


_EXPECTED = (
    "Data must have sample(batch_size, seq_len, device) or sample(BatchRequest), or be an iterable of batches "
    "(ReplayBuffer is the usual one)"
)


def _sampling(sample: Callable[..., Batch], request: BatchRequest, windows: WindowSpec) -> Callable[[], Batch]:
    signature = inspect.signature(sample)
    keywords: dict[str, Any] = {
        "batch_size": request.batch_size,
        "seq_len": request.seq_len,
        "device": request.device,
    }
    if windows != PLAIN_WINDOWS and _accepts(signature, **keywords, windows=windows):
        return lambda: sample(**keywords, windows=windows)
    if _accepts(signature, **keywords):
        return lambda: sample(**keywords)
    if _accepts(signature, request):
        return lambda: sample(request)
    raise ConfigError(f"{_EXPECTED}; got sample{signature}.")


def _accepts(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _checked(batch: Any) -> Batch:
    if not isinstance(batch, Batch):
        raise DataError(f"The data gave a {type(batch).__name__}; a worldline.Batch was expected.")
    return batch


class _Cycle:
    """Batches of an iterable, from its start again whenever it ends."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._iterator: Iterator[Batch] = iter(())
        self._count = 0

    def __call__(self) -> Batch:
        batch = next(self._iterator, None)
        if batch is None:
            self._iterator = iter(self._batches)
            batch = next(self._iterator, None)
        if batch is None:
            raise DataError(
                f"The data ended after {self._count} batches and cannot be read again. "
                "Pass a list, or an object whose __iter__ starts anew each time."
            )
        self._count += 1
        return _checked(batch).to(self._device)
