"""Every kind of data that a trainer accepts, and what it says about the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from training.tiny_training import TinySampler, Unseekable, make_batch
from worldline.batch import PLAIN_WINDOWS, Batch, BatchRequest, WindowSpec
from worldline.errors import ConfigError, DataError
from worldline.training.source import Source, open_source


class ByRequest:
    def sample(self, request: BatchRequest) -> Batch:
        assert isinstance(request, BatchRequest)
        return make_batch(0, request.batch_size, request.seq_len or 1)


class ByEither:
    def sample(self, batch_size: int | BatchRequest, seq_len: int | None = None, device: str = "cpu") -> Batch:
        assert isinstance(batch_size, int)
        return make_batch(0, batch_size, seq_len or 1)


class Wrong:
    def sample(self, count: int, flavour: str) -> Batch:
        raise AssertionError


def opened(data: object) -> Source:
    return open_source(data, batch_size=5, sequence_length=7, device=torch.device("cpu"), seed=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [TinySampler(), Unseekable(), ByRequest(), ByEither()])
def test_both_protocols_get_what_was_configured(sampler: object) -> None:
    batch = opened(sampler).batch(0)
    assert (batch.batch_size, batch.sequence_length) == (5, 7)


class Padding(ByEither):
    def sample(
        self,
        batch_size: int,
        seq_len: int | None = None,
        device: str = "cpu",
        *,
        windows: WindowSpec = PLAIN_WINDOWS,
    ) -> Batch:
        return make_batch(int(windows.pad_end), batch_size, seq_len or 1)


@pytest.mark.parametrize("pad_end", [True, False])
def test_who_can_pad_is_told(pad_end: bool) -> None:
    source = open_source(
        Padding(),
        batch_size=2,
        sequence_length=3,
        device=torch.device("cpu"),
        seed=3,
        windows=WindowSpec(pad_end=pad_end),
    )
    assert torch.equal(source.batch(0).obs, make_batch(int(pad_end), 2, 3).obs)


@pytest.mark.parametrize("sampler", [TinySampler(), ByRequest(), ByEither()])
def test_who_cannot_pad_is_not_asked(sampler: object) -> None:
    source = open_source(
        sampler, batch_size=5, sequence_length=7, device=torch.device("cpu"), seed=3, windows=WindowSpec(pad_end=True)
    )  # type: ignore[arg-type]
    assert source.batch(0).batch_size == 5


def test_only_data_with_seek_is_seekable() -> None:
    assert opened(TinySampler()).is_seekable
    assert not opened(Unseekable()).is_seekable


def test_a_batch_belongs_to_its_step_whoever_samples_in_between() -> None:
    sampler = TinySampler()
    source = opened(sampler)
    for step in (9, 9, 2):
        sampler.seek(seed=7, step=100)
        sampler.sample(5, 7)
        batch = source.batch(step)
        assert (sampler.seed, sampler.drawn[-1]) == (3, step)
        assert torch.equal(batch.obs, make_batch(3 * 100_003 + step, 5, 7).obs)


def test_an_iterable_is_read_again_when_it_ends() -> None:
    batches = [make_batch(seed) for seed in range(3)]
    source = opened(batches)
    drawn = [source.batch(step) for step in range(7)]
    assert [next(i for i, batch in enumerate(batches) if batch is item) for item in drawn] == [0, 1, 2, 0, 1, 2, 0]


def test_an_iterator_that_ends_says_so() -> None:
    def once() -> Iterator[Batch]:
        yield make_batch(0)

    source = opened(once())
    source.batch(0)
    with pytest.raises(DataError, match="ended after 1 batches and cannot be read again"):
        source.batch(0)


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(DataError, match="gave a dict"):
        opened([{"obs": 1}]).batch(0)


@pytest.mark.parametrize(("data", "got"), [(Wrong(), r"sample\(count: .*flavour"), (7, "got a int")])
def test_what_is_no_data_is_refused(data: object, got: str) -> None:
    with pytest.raises(ConfigError, match=f"ReplayBuffer is the usual one.*{got}"):
        opened(data)


@pytest.mark.parametrize("data", [TinySampler(), Unseekable(), iter([make_batch(seed, 5, 7) for seed in range(3)])])
def test_the_first_batches_for_ever(data: object) -> None:
    """Also where the data reuses their memory, and where it would end."""
    source = open_source(data, batch_size=5, sequence_length=7, device=torch.device("cpu"), seed=3, num_kept=2)  # type: ignore[arg-type]
    first = [source.batch(step).obs for step in range(2)]
    assert not torch.equal(*first)
    for step in range(2, 9):
        assert source.batch(step).obs is first[step % 2]


def test_kept_batches_own_their_memory() -> None:
    batch = make_batch(0)
    source = open_source([batch], batch_size=4, sequence_length=3, device=torch.device("cpu"), seed=3, num_kept=1)
    kept = source.batch(0).obs.clone()
    batch.obs.zero_()
    assert torch.equal(source.batch(1).obs, kept)
