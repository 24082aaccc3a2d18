"""Every kind of data that a trainer accepts, and what it says about the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from training.tiny_training import TinySampler, Unseekable, make_batch
from worldline.batch import Batch, BatchRequest
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
    return open_source(data, batch_size=5, sequence_length=7, device=torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [TinySampler(), Unseekable(), ByRequest(), ByEither()])
def test_both_protocols_get_what_was_configured(sampler: object) -> None:
    batch = opened(sampler).next_batch()
    assert (batch.batch_size, batch.sequence_length) == (5, 7)


def test_only_data_with_seek_is_seekable() -> None:
    sampler = TinySampler()
    source = opened(sampler)
    assert source.is_seekable
    source.seek(seed=3, step=9)
    assert (sampler.seed, sampler.step) == (3, 9)
    plain = opened(Unseekable())
    assert not plain.is_seekable
    plain.seek(seed=3, step=9)


def test_an_iterable_is_read_again_when_it_ends() -> None:
    batches = [make_batch(seed) for seed in range(3)]
    source = opened(batches)
    drawn = [source.next_batch() for _ in range(7)]
    assert [next(i for i, batch in enumerate(batches) if batch is item) for item in drawn] == [0, 1, 2, 0, 1, 2, 0]


def test_an_iterator_that_ends_says_so() -> None:
    def once() -> Iterator[Batch]:
        yield make_batch(0)

    source = opened(once())
    source.next_batch()
    with pytest.raises(DataError, match="ended after 1 batches and cannot be read again"):
        source.next_batch()


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(DataError, match="gave a dict"):
        opened([{"obs": 1}]).next_batch()


@pytest.mark.parametrize(("data", "got"), [(Wrong(), r"sample\(count: .*flavour"), (7, "got a int")])
def test_what_is_no_data_is_refused(data: object, got: str) -> None:
    with pytest.raises(ConfigError, match=f"ReplayBuffer is the usual one.*{got}"):
        opened(data)
