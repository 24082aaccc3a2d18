"""Data in memory or from the disk, by its size."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from worldline.data import loading
from worldline.data.block import EpisodeBlock
from worldline.data.buffer import ReplayBuffer
from worldline.data.formats.catalog import read_recording
from worldline.data.formats.chosen import ChosenRecording
from worldline.data.formats.recording import Recording
from worldline.data.loading import convert, mapped_folder, stored_bytes
from worldline.episode import Array, DataSpec, Episode
from worldline.errors import DataError, FileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    obs = {"image": np.zeros((6, 4, 4, 3), np.uint8), "state": np.zeros((6, 2), np.float32)}
    episode = Episode(obs=obs, actions=np.zeros((6, 2)), rewards=np.zeros(6), terminated=True)
    ReplayBuffer.from_episodes([episode, episode], action_dim=2).save(tmp_path / "data.npz")
    return tmp_path / "data.npz"


def test_sizes_are_those_of_a_buffer(path: Path) -> None:
    with read_recording(path) as recording:
        assert stored_bytes(recording) == 12 * (48 + 2 * 4 + 2 * 4 + 4 + 4)


def test_what_is_small_goes_into_memory(path: Path, tmp_path: Path) -> None:
    assert mapped_folder(path, tmp_path / "imported") is None
    assert not (tmp_path / "imported").exists()


def test_what_is_large_is_imported_once(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 12 * 72 - 1)
    told: list[tuple[int, int]] = []
    folder = mapped_folder(path, tmp_path / "imported", on_episodes=lambda done, total: told.append((done, total)))
    assert folder == tmp_path / "imported"
    assert told[-1] == (2, 2)
    path.unlink()
    assert mapped_folder(path, tmp_path / "imported") == folder  # not looked at again


def test_a_folder_of_columns_is_mapped_where_it_is(path: Path, tmp_path: Path) -> None:
    assert convert(path, tmp_path / "columns") == (2, 12)
    assert mapped_folder(tmp_path / "columns", tmp_path / "imported") == tmp_path / "columns"


@pytest.mark.parametrize("name", ["a", "a.h5", "a.zarr", "a.npz"])
def test_what_fails_leaves_nothing_behind(path: Path, tmp_path: Path, name: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises((DataError, FileError)):
        convert(path, tmp_path / name)
    assert [item.name for item in tmp_path.iterdir()] == ["data.npz"]


class Watched(Recording):
    """Episodes of which each must be gone before the next one is made."""

    def __init__(self) -> None:
        self.path, self.num_episodes, self.num_steps = Path("watched"), 3, 6
        self.spec = DataSpec(obs_shape={"a": (2,), "b": (3,)}, action_dim=1, action_type="continuous", action_sizes=())

    def blocks(self) -> Iterator[EpisodeBlock]:
        last: weakref.ref[Array] | None = None
        for _ in range(self.num_episodes):
            assert last is None or last() is None
            obs = {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 3), np.float32)}
            last = weakref.ref(obs["a"])
            block = EpisodeBlock.of(Episode(obs=obs, actions=np.ones((2, 1)), rewards=np.ones(2), terminated=True))
            del obs
            yield block
            del block

    def close(self) -> None:
        pass


@pytest.mark.parametrize("obs_keys", [None, ["a"]])
def test_memory_holds_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obs_keys: list[str] | None) -> None:
    def read(_: Path, **__: object) -> Recording:
        return Watched() if obs_keys is None else ChosenRecording(Watched(), obs_keys)

    monkeypatch.setattr(loading, "read_recording", read)
    assert convert(tmp_path, tmp_path / "columns", obs_keys=obs_keys) == (3, 6)
