"""Columns on disk: the same rows as in memory, damage that is found, and writing that is whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.formats.episodes import make
from worldline.data.block import EpisodeBlock
from worldline.data.buffer import ReplayBuffer
from worldline.data.column_writer import write_columns
from worldline.data.columns import ColumnStore, is_columns
from worldline.data.rows import RowEncoder
from worldline.errors import DataError, FileError

ENDS = [(5, True, False, True), (1, False, True, True), (9, False, False, False)]
MADE: dict[str, Any] = {
    "kinds": ["vector", "image"],
    "is_plain": False,
    "actions": "discrete",
    "ends": ENDS,
    "languages": ["", "push"],
    "seed": 0,
}


def write(path: Path, **changes: Any) -> ReplayBuffer:
    """Write episodes, and return a buffer with the same ones."""
    episodes, told = make(**{**MADE, **changes})
    buffer = ReplayBuffer.from_episodes(episodes, **told)
    spec = buffer.spec
    encoder = RowEncoder(spec.obs_shape, spec.action_dim, told["obs_dtype"], spec.action_sizes)
    write_columns(path, encoder, map(EpisodeBlock.of, episodes))
    return buffer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "data")
    return tmp_path / "data"


def test_rows_are_laid_out_as_in_memory(tmp_path: Path) -> None:
    buffer = write(tmp_path / "data")
    store, expected = ColumnStore(tmp_path / "data"), buffer._episode_store()
    assert store.first_rows.tolist() == expected.first_rows.tolist() == [0, 6, 8]
    assert store.steps.tolist() == [5, 1, 9]
    assert store.truncated.tolist() == [False, True, False]
    assert store.num_rows == 18
    assert store.columns.keys() == expected.columns.keys()
    for name, column in store.columns.items():
        assert column.tobytes() == expected.columns[name][:18].tobytes()
    assert [dict(meta) for meta in store.meta] == [{}, {"seed": 1, "language": "push"}, {"seed": 2}]


def test_any_program_can_map_a_column(folder: Path) -> None:
    images = np.load(folder / "obs.image.npy", mmap_mode="r")
    assert images.shape == (18, 4, 5, 3)
    assert images.dtype == np.uint8


def test_columns_cannot_be_changed_by_a_reader(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        ColumnStore(folder).columns["rewards"][0] = 1


def test_opening_reads_no_column(folder: Path) -> None:
    """What is in the middle of a column is looked at by `verify` alone."""
    path = folder / "actions.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store = ColumnStore(folder)
    with pytest.raises(FileError, match=r"actions\.npy is not what it was"):
        store.verify()


def test_verify_passes_what_is_intact(folder: Path) -> None:
    ColumnStore(folder).verify()


@pytest.mark.parametrize("name", ["obs.image.npy", "episodes.npy", "flags.npy", "manifest.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_named(folder: Path, name: str, keep: float) -> None:
    path = folder / name
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(FileError, match=name):
        ColumnStore(folder)


@pytest.mark.parametrize("name", ["obs.vector.npy", "episodes.npy", "manifest.json"])
def test_a_file_that_is_missing_or_a_link_is_named(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder.parent / "elsewhere")
    with pytest.raises(FileError, match=name):
        ColumnStore(folder)
    if name != "manifest.json":
        (folder / name).symlink_to(folder.parent / "elsewhere")
        with pytest.raises(FileError, match="is a link"):
            ColumnStore(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_rows": 1 << 40}, "obs"),
        ({"num_steps": 14}, "episodes.npy"),
        ({"num_episodes": -1}, "numbers"),
        ({"version": 2}, "version 2"),
        ({"kind": "other"}, "no manifest"),
        ({"columns": {"../../x": {"shape": [1], "dtype": "<f4"}}}, "no column"),
        ({"columns": {"obs": {"shape": [1 << 30], "dtype": "<f4"}}}, "at most"),
        ({"columns": {"obs": {"shape": [4], "dtype": "|O"}}}, "Python objects"),
        ({"columns": {}}, "lacks something"),
        ({"action_sizes": [7, 7]}, "do not fit action_dim"),
        ({"sha256": {}}, "digests"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(FileError, match=message):
        ColumnStore(folder)


@pytest.mark.parametrize(
    ("row", "column", "value"), [(0, 0, 1), (1, 0, 7), (0, 1, 0), (2, 1, 1 << 40), (2, 1, -3), (0, 2, 5)]
)
def test_an_index_that_does_not_fit_is_refused(folder: Path, row: int, column: int, value: int) -> None:
    index = np.lib.format.open_memmap(folder / "episodes.npy", mode="r+")
    index[row, column] = value
    index.flush()
    with pytest.raises(FileError, match=r"episodes\.npy does not fit"):
        ColumnStore(folder)


def test_meta_that_has_changed_is_refused(folder: Path) -> None:
    (folder / "meta.jsonl").write_text("{}\n{}\n{}\n")
    with pytest.raises(FileError, match=r"meta\.jsonl is not what it was"):
        assert ColumnStore(folder).meta


def test_nothing_is_replaced(folder: Path) -> None:
    before = sorted(path.name for path in folder.parent.iterdir())
    with pytest.raises(FileError, match="there already"):
        write(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == before


def test_an_episode_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    episodes, told = make(**MADE)
    others, _ = make(**{**MADE, "kinds": ["vector"]})
    encoder = RowEncoder({"vector": (3,), "image": (4, 5, 3)}, 3, told["obs_dtype"], (3,))
    with pytest.raises(DataError, match="lacks"):
        write_columns(tmp_path / "data", encoder, map(EpisodeBlock.of, [*episodes, *others]))
    assert list(tmp_path.iterdir()) == []


def test_no_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no episodes"):
        write_columns(tmp_path / "data", RowEncoder((3,), 2, None, ()), [])
    assert list(tmp_path.iterdir()) == []


def test_every_crash_leaves_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies before any of the operations leaves no folder of that name; the next attempt succeeds."""
    from worldline import files

    class Dead(BaseException):
        pass

    count, last = 0, 0

    def change(operation: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count >= last:  # also what would tidy up afterwards
            raise Dead
        return operation(*args, **kwargs)

    path = tmp_path / "data"
    while last < 500:
        count, last = 0, last + 1
        with monkeypatch.context() as patch:
            patch.setattr(files, "change", change)
            patch.setattr("worldline.data.column_writer.change", change)
            try:
                write(path)
            except Dead:
                assert not path.exists() or is_columns(path)
                if path.exists():  # renamed; only the flush of the folder above was missing
                    ColumnStore(path).verify()
                    shutil.rmtree(path)
                continue
        break
    assert 30 < last < 500
    ColumnStore(path).verify()
    assert [item.name for item in tmp_path.iterdir()] == ["data"]
