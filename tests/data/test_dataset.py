"""Dataset: what a ReplayBuffer gives, from the disk."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.formats.episodes import assert_equal_episodes
from data.test_columns import write
from worldline.batch import WindowSpec
from worldline.data.buffer import ReplayBuffer
from worldline.data.dataset import Dataset
from worldline.errors import ConfigError, DataError, FileError
from worldline.protocols import HasStatistics, Sampler, Seekable

SPECS = (
    WindowSpec(),
    WindowSpec(pad_end=True),
    WindowSpec(pad_start=2, pad_end=True),
    WindowSpec(commands=True),
    WindowSpec(closing_row=False),
)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Dataset, ReplayBuffer]:
    buffer = write(tmp_path / "data")
    return Dataset(tmp_path / "data"), buffer


def assert_same(one: Any, other: Any) -> None:
    for name in one:
        pairs = [(one[name], other[name])]
        if isinstance(one[name], dict):
            pairs = [(one[name][key], other[name][key]) for key in one[name]]
        for a, b in pairs:
            assert (a is None and b is None) or torch.equal(a, b), name


def test_it_is_what_a_trainer_takes(both: tuple[Dataset, ReplayBuffer]) -> None:
    data, _ = both
    assert isinstance(data, Sampler)
    assert isinstance(data, Seekable)
    assert isinstance(data, HasStatistics)


def test_it_has_the_same_episodes(both: tuple[Dataset, ReplayBuffer]) -> None:
    assert_equal_episodes(*both)
    assert len(both[0]) == len(both[1]) == 15


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("seq_len", [1, 3, 20])
def test_it_gives_the_same_windows_in_the_same_order(
    both: tuple[Dataset, ReplayBuffer], spec: WindowSpec, seq_len: int
) -> None:
    for place in ({}, {"rank": 1, "num_ranks": 3}):
        for sampler in both:
            sampler.seek(seed=3, step=62, **place)  # crosses the end of a block of 64 steps
        for _ in range(4):
            assert_same(*(sampler.sample(8, seq_len, windows=spec) for sampler in both))


def test_it_has_the_same_statistics(both: tuple[Dataset, ReplayBuffer]) -> None:
    one, other = (sampler.statistics() for sampler in both)
    assert one.keys() == other.keys() == {"obs.vector", "actions", "rewards", "commands"}
    for name, statistics in one.items():
        assert np.array_equal(statistics.mean, other[name].mean)
        assert np.array_equal(statistics.std, other[name].std)


def test_windows_without_the_closing_row_have_steps_alone(both: tuple[Dataset, ReplayBuffer]) -> None:
    data, _ = both
    windows = data.windows_of(3, WindowSpec(closing_row=False))
    assert windows.num_starts == 3 + 1 + 7  # of 5, 1 and 9 steps
    numbers = np.arange(windows.num_starts)
    assert windows.episodes_of(numbers).tolist() == [0] * 3 + [1] + [2] * 7
    gathered = windows.gather(windows.locate(numbers))
    rewards = [episode.rewards for episode in data.episodes()]
    assert gathered["rewards"][2].tolist() == rewards[0][2:5].tolist()
    assert gathered["rewards"][3].tolist() == [rewards[1][0], 0, 0]
    assert gathered["rewards"][10].tolist() == rewards[2][6:9].tolist()
    assert gathered["flags"][:, :, 2].sum() == 3 * 11 - 2  # steps everywhere but in what pads the short episode


def test_only_the_observations_asked_for_are_read(tmp_path: Path) -> None:
    buffer = write(tmp_path / "data")
    data = Dataset(tmp_path / "data", obs_keys=["image"])
    assert data.spec.obs_shape == {"image": (4, 5, 3)}
    batch, whole = data.sample(4, 2), buffer.sample(4, 2)
    assert batch.obs.keys() == {"image"}
    assert batch.obs["image"].dtype == torch.uint8
    assert torch.equal(batch.obs["image"], whole.obs["image"])
    assert torch.equal(batch.actions, whole.actions)
    with pytest.raises(DataError, match="vector, image"):
        Dataset(tmp_path / "data", obs_keys=["camera"])


def test_keys_of_a_single_observation_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "data", kinds=["vector"], is_plain=True)
    with pytest.raises(DataError, match="without keys"):
        Dataset(tmp_path / "data", obs_keys=["vector"])


def test_a_split_reads_the_same_files(tmp_path: Path) -> None:
    buffer = write(tmp_path / "data", ends=[(length, True, False, True) for length in range(1, 21)])
    parts, expected = Dataset(tmp_path / "data").split(0.25, seed=1), buffer.split(0.25, seed=1)
    assert [part.num_episodes for part in parts] == [15, 5]
    for part, other in zip(parts, expected, strict=True):
        assert_equal_episodes(part, other)
        assert_same(part.sample(16, 4), other.sample(16, 4))
    again = parts[1].split(0.4, seed=0)[1]
    assert {int(meta["seed"]) for meta in again.meta} < {int(meta["seed"]) for meta in parts[1].meta}
    with pytest.raises(ConfigError, match="held_out"):
        parts[0].split(1.5)


def test_a_copy_that_was_pickled_goes_on_where_it_stood(tmp_path: Path) -> None:
    write(tmp_path / "data")
    data = Dataset(tmp_path / "data", obs_keys=["vector"]).subset(np.array([0, 2]))
    data.seek(seed=5, step=7)
    text = pickle.dumps(data)
    assert len(text) < 2000  # the path, not the columns
    copy = pickle.loads(text)  # noqa: S301 - our own
    assert_same(copy.sample(4, 3), data.sample(4, 3))
    assert copy.num_episodes == 2


def test_workers_of_a_loader_read_it(tmp_path: Path) -> None:
    """The way a map-style data set is read: windows by number, in other processes."""
    write(tmp_path / "data", kinds=["vector"], is_plain=True)
    data = Dataset(tmp_path / "data")
    loader = torch.utils.data.DataLoader(ByNumber(data), batch_size=4, num_workers=1, collate_fn=lambda batch: batch)
    expected = [reward for episode in data.episodes() for reward in episode.rewards.tolist()]
    assert torch.cat(list(loader)).flatten().tolist() == expected


class ByNumber(torch.utils.data.Dataset[torch.Tensor]):
    """Rewards of single steps, gathered a batch at a time."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, numbers: list[int]) -> torch.Tensor:
        windows = self.data.windows_of(1, WindowSpec(closing_row=False))
        return torch.from_numpy(windows.gather(windows.locate(np.array(numbers)))["rewards"])


def test_damage_is_found_on_demand(both: tuple[Dataset, ReplayBuffer]) -> None:
    data, _ = both
    data.verify()
    path = data.path / "rewards.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(FileError, match="rewards"):
        Dataset(data.path).verify()
