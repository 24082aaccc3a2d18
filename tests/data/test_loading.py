"""Data in memory or from the disk, by its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldline.data import loading
from worldline.data.buffer import ReplayBuffer
from worldline.data.formats.catalog import read_recording
from worldline.data.loading import convert, mapped_folder, stored_bytes
from worldline.episode import Episode
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
