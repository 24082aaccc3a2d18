"""Samples of recorded episodes have the documented shapes and values, however they are read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate, random_split

from simscaleai.training.carrier import unpack
from simscaleai.training.data.dataset import INSTRUCTIONS, DummyTrajectoryDataset, TrajectoryDataset
from simscaleai.training.loader import OrderedLoader, statistics_of
from worldline.batch import WindowSpec
from worldline.data import loading
from worldline.errors import ConfigError, DataError, FileError

LENGTHS = (5, 3, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write the documented layout by hand, with numbers that say their episode and step."""
    with h5py.File(tmp_path / "reach.h5", "w") as file:
        for episode, length in enumerate(LENGTHS):
            group = file.create_group(f"episode_{episode}")
            steps = 100.0 * episode + np.arange(length)
            group["observations/joint_pos"] = np.repeat(steps[:, None], 7, axis=1)
            group["observations/ee_pos"] = np.repeat(-steps[:, None], 3, axis=1)
            images = np.zeros((length, 6, 8, 3), dtype=np.uint8)
            images[..., 1] = (10 * episode + np.arange(length))[:, None, None]
            group["observations/image"] = images
            group["actions"] = np.repeat(steps[:, None] / 1000, 4, axis=1)
            group["rewards"] = np.ones(length)
            group.attrs["language"] = f"do {episode}"
    return tmp_path / "reach.h5"


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


def test_single_steps(path: Path):
    dataset = TrajectoryDataset(path)
    assert len(dataset) == sum(LENGTHS)
    sample = dataset[6]  # the second of episode 1
    assert list(sample) == ["observations", "actions"]
    assert {key: tuple(value.shape) for key, value in sample["observations"].items()} == {
        "ee_pos": (3,),
        "image": (3, 6, 8),
        "joint_pos": (7,),
    }
    assert {value.dtype for value in (*sample["observations"].values(), sample["actions"])} == {torch.float32}
    assert sample["observations"]["joint_pos"].tolist() == [101.0] * 7
    assert sample["actions"].tolist() == pytest.approx([0.101] * 4)
    assert sample["observations"]["image"][:, 0, 0].tolist() == pytest.approx([0.0, 11 / 255, 0.0])
    assert same(dataset[-1], dataset[len(dataset) - 1])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_windows_are_steps_of_one_episode(path: Path):
    dataset = TrajectoryDataset(str(path), seq_len=4, obs_keys=["joint_pos", "image"], include_language=True)
    assert len(dataset) == 2 + 5  # the episode of 3 steps has none
    firsts = [int(dataset[index]["observations"]["joint_pos"][0, 0]) for index in range(len(dataset))]
    assert firsts == [0, 1, 200, 201, 202, 203, 204]
    sample = dataset[3]
    assert sample["observations"]["joint_pos"][:, 0].tolist() == [201.0, 202.0, 203.0, 204.0]
    assert sample["observations"]["image"].shape == (4, 3, 6, 8)
    assert sample["actions"].shape == (4, 4)
    assert sample["language"] == "do 2"
    assert list(sample["observations"]) == ["joint_pos", "image"]


def test_windows_that_a_model_asks_for_are_masked(path: Path):
    dataset = TrajectoryDataset(path, seq_len=4, windows=WindowSpec(pad_end=True, pad_start=1, closing_row=False))
    assert len(dataset) == sum(LENGTHS) + len(LENGTHS)
    assert dataset[0]["mask"].tolist() == [False, True, True, True]
    assert dataset[0]["observations"]["joint_pos"][:, 0].tolist() == [0.0, 0.0, 1.0, 2.0]
    assert dataset[5]["mask"].tolist() == [True, False, False, False]


@pytest.mark.parametrize("seq_len", [1, 3])
def test_several_samples_at_once_are_the_same(path: Path, seq_len: int):
    dataset = TrajectoryDataset(path, seq_len, include_language=True)
    indices = [4, 0, 7, 4]
    singles = [dataset[index] for index in indices]
    assert all(same(one, other) for one, other in zip(dataset.__getitems__(indices), singles, strict=True))
    assert same(dataset.gather(indices), default_collate(singles))


def test_a_transform_changes_every_sample(path: Path):
    def halve(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "actions": sample["actions"] / 2}

    dataset, plain = TrajectoryDataset(path, transform=halve), TrajectoryDataset(path)
    assert torch.equal(dataset[7]["actions"], plain[7]["actions"] / 2)
    assert torch.equal(dataset.gather([7, 8])["actions"], plain.gather([7, 8])["actions"] / 2)


@pytest.mark.parametrize(("is_mapped", "context"), [(False, "fork"), (True, "fork"), (True, "spawn")])
def test_workers_read_the_same(path: Path, is_mapped: bool, context: str, monkeypatch: pytest.MonkeyPatch):
    if is_mapped:
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    dataset = TrajectoryDataset(path, 2, include_language=True, transform=None if is_mapped else as_it_is)
    assert path.with_name("reach.h5.columns").is_dir() is is_mapped
    part, _ = random_split(dataset, [0.5, 0.5], torch.Generator().manual_seed(0))
    others = started()
    loaders = [
        OrderedLoader(DataLoader(part, batch_size=3, shuffle=True, num_workers=num, **more))
        for num, more in ((0, {}), (1, {"multiprocessing_context": context}))
    ]
    for _ in range(4):
        first, second = (unpack(loader.sample(3)) for loader in loaders)
        assert same(first, second)
    assert len(started() - others) == 1
    loaders[1].close()


def started() -> set[int | None]:
    """Return the processes that this one has started; some are of other tests."""
    return {process.pid for process in multiprocessing.active_children()}


def as_it_is(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


@pytest.mark.parametrize("is_part", [False, True])
def test_what_is_in_memory_needs_no_workers(path: Path, is_part: bool):
    others = started()
    dataset: Any = TrajectoryDataset(path)
    chosen = random_split(dataset, [0.5, 0.5])[0] if is_part else dataset
    loader = OrderedLoader(DataLoader(chosen, batch_size=3, shuffle=True, num_workers=1))
    loader.sample(3)
    assert started() <= others
    asked = OrderedLoader(DataLoader(chosen, batch_size=3, num_workers=1, worker_init_fn=as_it_is))  # type: ignore[arg-type]
    asked.sample(3)
    assert len(started() - others) == 1
    asked.close()


def test_other_windows_of_the_same_episodes(path: Path):
    spec = WindowSpec(pad_end=True, closing_row=False)
    dataset = TrajectoryDataset(path, obs_keys=["joint_pos"])
    path.rename(path.with_name("elsewhere.h5"))  # nothing is read again
    other = dataset.with_windows(4, spec, include_language=True)
    expected = TrajectoryDataset(
        path.with_name("elsewhere.h5"), 4, obs_keys=["joint_pos"], include_language=True, windows=spec
    )
    assert len(other) == len(expected)
    assert all(same(other[index], expected[index]) for index in range(len(expected)))
    assert dataset[0]["actions"].shape == (4,)  # as it was


def test_a_pickled_data_set_is_the_same(path: Path):
    dataset = TrajectoryDataset(path, 4)
    data = pickle.dumps(dataset)
    assert same(pickle.loads(data)[3], dataset[3])  # noqa: S301
    part, _ = dataset.split(0.4)
    assert same(pickle.loads(pickle.dumps(part))[0], part[0])  # noqa: S301


def test_a_split_divides_episodes(path: Path):
    train, test = TrajectoryDataset(path, include_language=True).split(0.3, seed=1)
    parts = [{part[index]["language"] for index in range(len(part))} for part in (train, test)]
    assert parts[0] | parts[1] == {"do 0", "do 1", "do 2"}
    assert not parts[0] & parts[1]
    assert len(train) + len(test) == sum(LENGTHS)
    assert (train.num_episodes, test.num_episodes) == (2, 1)


def test_statistics_are_those_of_all_steps(path: Path):
    found = TrajectoryDataset(path, obs_keys=["joint_pos"]).statistics()
    assert sorted(found) == ["actions", "obs.joint_pos", "rewards"]
    values = np.concatenate([100 * episode + np.arange(length) for episode, length in enumerate(LENGTHS)])
    assert found["obs.joint_pos"].mean[0] == pytest.approx(values.mean())
    assert found["obs.joint_pos"].std[0] == pytest.approx(values.std())
    assert found["actions"].high.tolist() == pytest.approx([0.207] * 4)


def test_shapes_of_a_step(path: Path):
    dataset = TrajectoryDataset(path)
    assert dataset.obs_shapes == {"ee_pos": (3,), "image": (3, 6, 8), "joint_pos": (7,)}
    assert (dataset.action_dim, dataset.has_language) == (4, True)


def test_mistakes_are_named(path: Path, tmp_path: Path):
    with pytest.raises(DataError, match="Did you mean 'joint_pos'"):
        TrajectoryDataset(path, obs_keys=["joint_po"])
    with pytest.raises(DataError, match="no episode of 9 steps"):
        TrajectoryDataset(path, seq_len=9)
    with pytest.raises(ConfigError, match="seq_len"):
        TrajectoryDataset(path, seq_len=0)
    with pytest.raises(FileError, match="nothing"):
        TrajectoryDataset(tmp_path / "nothing.h5")
    with h5py.File(path, "a") as file:
        del file["episode_1"].attrs["language"]
    with pytest.raises(DataError, match=r"Episode 1 of .* has no instruction"):
        TrajectoryDataset(path, include_language=True)


def test_what_was_imported_from_an_older_file_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    TrajectoryDataset(path)
    os.utime(path, (2e9, 2e9))
    with pytest.raises(FileError, match="imported from an older"):
        TrajectoryDataset(path)


def test_the_dummy_is_what_the_document_says():
    dataset = DummyTrajectoryDataset(
        num_samples=12, obs_dim=5, action_dim=2, image_size=(4, 6), include_image=True, include_language=True, seed=1
    )
    assert len(dataset) == 12
    sample = dataset[7]
    assert {key: tuple(value.shape) for key, value in sample["observations"].items()} == {
        "state": (5,),
        "image": (3, 4, 6),
    }
    assert sample["actions"].shape == (2,)
    assert 0 <= sample["observations"]["image"].min() < sample["observations"]["image"].max() <= 1
    assert [dataset[index]["language"] for index in range(6)] == [*INSTRUCTIONS, INSTRUCTIONS[0]]
    assert len(set(INSTRUCTIONS)) == 5
    again, other = (DummyTrajectoryDataset(num_samples=12, obs_dim=5, seed=seed)[7] for seed in (1, 2))
    assert torch.equal(sample["observations"]["state"], again["observations"]["state"])
    assert not torch.equal(again["observations"]["state"], other["observations"]["state"])
    assert list(again) == ["observations", "actions"]


def test_statistics_are_those_of_what_a_transform_makes_of_samples(path: Path):
    """Not of what is in the file: a model would normalise by another scale."""

    def in_milliradians(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "observations": {"joint_pos": 1000 * sample["observations"]["joint_pos"]}}

    dataset = TrajectoryDataset(path, transform=in_milliradians)
    found = statistics_of(DataLoader(dataset, batch_size=4))
    assert sorted(found) == ["actions", "obs.joint_pos"]
    assert found["obs.joint_pos"].high.tolist() == [207_000.0] * 7
    assert found["actions"].count == sum(LENGTHS)
