"""Loaders as samplers: every sample once in an epoch, any step at once, whatever loads it."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, WeightedRandomSampler

from simscaleai.training.carrier import unpack
from simscaleai.training.loader import OrderedLoader, PlainLoader, open_loader
from worldline.batch import Batch
from worldline.errors import ConfigError, DataError
from worldline.seeding import rng_state
from worldline.training.source import open_source


class Numbers(Dataset[dict[str, Any]]):
    """Samples that say their number, with noise of all three generators if asked for."""

    def __init__(self, num: int = 10, *, has_noise: bool = False) -> None:
        self.num, self.has_noise = num, has_noise
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.append(index)
        noise = [float(torch.rand(())), random.random(), float(np.random.rand())] if self.has_noise else [0.0]  # noqa: NPY002
        return {
            "index": torch.tensor(index),
            "noise": torch.tensor(noise),
            "observations": {"x": torch.ones(2) * index},
        }


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Any:
        return ({"index": torch.tensor(index)} for index in range(5))


def opened(dataset: Any = None, **settings: Any) -> OrderedLoader:
    loader = open_loader(
        DataLoader(Numbers() if dataset is None else dataset, **{"batch_size": 4, "shuffle": True, **settings}),
        num_ranks=1,
    )
    assert isinstance(loader, OrderedLoader)
    return loader


def indices(batch: Batch) -> list[int]:
    return [int(index) for index in unpack(batch)["index"]]


def read(loader: OrderedLoader, steps: Any, *, batch_size: int = 4, **place: int) -> list[list[int]]:
    found = []
    for step in steps:
        loader.seek(**{"seed": 3, "step": step, **place})
        found.append(indices(loader.sample(batch_size)))
    return found


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own():
    batches = read(opened(), range(6))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    epochs = [list(itertools.chain(*batches[:3])), list(itertools.chain(*batches[3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1] != list(range(10))


def test_any_step_comes_at_once_and_alone_is_read():
    dataset = Numbers()
    loader = opened(dataset)
    expected = read(loader, range(8))
    dataset.read.clear()
    assert read(loader, [5]) == [expected[5]]
    assert dataset.read == expected[5]
    assert read(loader, [7, 0, 3]) == [expected[7], expected[0], expected[3]]


def test_without_seek_it_goes_on():
    loader = opened()
    loader.seek(seed=3, step=1)
    assert [indices(loader.sample(4)) for _ in range(2)] == read(opened(), [1, 2])


def test_without_shuffling_samples_come_as_they_are():
    assert read(opened(shuffle=False), range(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert read(opened(shuffle=False, drop_last=True), range(3)) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_seeds_and_a_generator_of_the_loader_change_the_order():
    orders = {str(read(opened(), [0], seed=seed)) for seed in range(4)}
    orders |= {str(read(opened(generator=torch.Generator().manual_seed(seed)), [0])) for seed in (7, 8)}
    assert len(orders) == 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_read_the_same_with_the_same_noise(num_workers: int):
    expected = opened(Numbers(has_noise=True))
    loader = opened(Numbers(has_noise=True), num_workers=num_workers)
    before = rng_state()["cpu"], random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    for step in (0, 1, 2, 3, 4, 9, 10, 2):
        for item in (expected, loader):
            item.seek(seed=3, step=step)
        first, second = (unpack(item.sample(4)) for item in (expected, loader))
        assert torch.equal(first["index"], second["index"])
        assert torch.equal(first["noise"], second["noise"])
        assert len(set(first["noise"].flatten().tolist())) == first["noise"].numel()
    loader.close()
    after = rng_state()["cpu"], random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    assert torch.equal(before[0], after[0])  # whoever trains the model draws as if nothing had been read
    assert before[1:] == after[1:]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_processes_share_the_batches_of_one(num_ranks: int):
    """Of 4 samples each, of which the last batch of an epoch has fewer samples than there are processes."""
    num_samples = 4 * num_ranks + 1
    whole = read(opened(Numbers(num_samples)), range(4), batch_size=4 * num_ranks)
    parts = [
        read(opened(Numbers(num_samples)), range(4), batch_size=4 * num_ranks, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    assert [len(batch) for batch in whole] == [4 * num_ranks, 1] * 2
    for step in (0, 2):
        assert [index for part in parts for index in part[step]] == whole[step]
    assert [part[1] for part in parts] == [whole[1]] * num_ranks  # something to compute a loss of,
    loader = opened(Numbers(num_samples))
    counted = []
    for rank in range(num_ranks):
        loader.seek(seed=3, step=1, rank=rank, num_ranks=num_ranks)
        counted.append(bool(loader.sample(4 * num_ranks).step_mask.all()))
    assert counted == [True, *[False] * (num_ranks - 1)]  # which counts once


def test_the_trainer_takes_it_for_a_sampler_that_can_seek():
    source = open_source(opened(), batch_size=8, sequence_length=1, device=torch.device("cpu"), seed=3, place=(1, 2))
    assert source.is_seekable
    assert indices(source.batch(0)) == read(opened(), [0], batch_size=8, rank=1, num_ranks=2)[0]


def test_a_distributed_sampler_means_the_order_of_all_samples():
    sampler = DistributedSampler(Numbers(), num_replicas=2, rank=1)
    loader = open_loader(DataLoader(Numbers(), batch_size=4, sampler=sampler), num_ranks=2)
    assert isinstance(loader, OrderedLoader)
    assert read(loader, [0]) == read(opened(), [0])


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Numbers(), batch_size=4, sampler=WeightedRandomSampler([1.0] * 10, 10)),
        DataLoader(Stream(), batch_size=2),
        DataLoader(Numbers(), batch_sampler=[[0, 1], [5]]),
        [{"index": torch.tensor([1, 2])}],
    ],
    ids=["sampler", "stream", "batch_sampler", "list"],
)
def test_other_loaders_are_iterated_as_they_are(loader: Any):
    data = open_loader(loader, num_ranks=1)
    assert isinstance(data, PlainLoader)
    assert len([indices(batch) for batch in data]) == len(list(loader))
    assert not open_source(data, batch_size=4, sequence_length=1, device=torch.device("cpu"), seed=0).is_seekable
    with pytest.raises(ConfigError, match="cannot be shared by 2 processes"):
        open_loader(loader, num_ranks=2)


def test_mistakes_are_named():
    with pytest.raises(DataError, match="data set is empty"):
        opened(Subset(Numbers(), []), shuffle=False)
    with pytest.raises(DataError, match="10 samples make none of 16"):
        opened(batch_size=16, drop_last=True).sample(16)
    with pytest.raises(ConfigError, match="got a int"):
        open_loader(3, num_ranks=1)


def test_statistics_of_all_vectors():
    found = opened(Numbers(5)).statistics()
    assert sorted(found) == ["index", "noise", "obs.x"]
    assert found["obs.x"].mean.tolist() == [2.0, 2.0]
    assert (found["obs.x"].low.tolist(), found["obs.x"].high.tolist()) == ([0.0, 0.0], [4.0, 4.0])
    assert found["obs.x"].std.tolist() == pytest.approx([2**0.5] * 2)


def test_statistics_of_a_large_data_set_are_those_of_some_samples():
    dataset = Numbers(30_000)
    found = opened(dataset).statistics()["obs.x"]
    assert found.count == len(set(dataset.read)) == 10_000
    assert (found.low[0], found.high[0]) == (0, 29_999)
    assert found.mean[0] == pytest.approx(14_999.5, rel=1e-3)


def test_a_data_set_that_has_statistics_is_asked_also_for_a_part_of_it():
    class Known(Numbers):
        def statistics(self) -> dict[str, str]:
            return {"obs.x": "its own"}

    assert opened(Subset(Known(), [1, 2])).statistics() == {"obs.x": "its own"}


@pytest.mark.parametrize("length", [1, 4])
def test_statistics_of_single_numbers_and_matrices(length: int):
    """Which dimensions are samples and steps is known from the actions: `[B, A]` or `[B, T, A]`."""
    rows = (6, length) if length > 1 else (6,)
    observations = {"gripper": torch.rand(rows), "points": torch.rand(*rows, 2, 3), "image": torch.rand(*rows, 3, 4, 4)}
    found = open_loader([{"observations": observations, "actions": torch.rand(*rows, 2)}], num_ranks=1).statistics()
    assert {name: (column.count, column.mean.shape) for name, column in found.items()} == {
        "obs.gripper": (6 * length, ()),
        "obs.points": (6 * length, (2, 3)),
        "actions": (6 * length, (2,)),
    }
    assert found["obs.points"].mean == pytest.approx(observations["points"].flatten(0, -3).mean(0).numpy(), abs=1e-6)
