"""Files are there in full or not at all; nothing is deleted to make room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from worldline import files


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "x"
    files.write_atomically(path, b"old")
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_belong_together_are_replaced_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("old")
    with files.replacing(first, second) as besides:
        for beside in besides:
            beside.write_text("new")
        assert first.read_text() == "old"
        assert not second.exists()
    assert (first.read_text(), second.read_text()) == ("new", "new")
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_an_error_on_the_way_replaces_nothing(tmp_path: Path) -> None:
    def fail(*paths: Path) -> None:
        with files.replacing(*paths) as (beside, _):
            beside.write_text("new")
            raise RuntimeError("mine")

    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError, match="mine"):
        fail(tmp_path / "a", tmp_path / "b")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_windows_cannot_flush_what_is_not_open(
    tmp_path: Path, full_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.touch()
    monkeypatch.setattr(files.os, "name", "nt")
    files.sync(path)


def test_sha256_of_the_empty_and_of_a_longer_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"")
    assert files.sha256(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_bytes(b"abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_is_set_aside_is_numbered(tmp_path: Path) -> None:
    assert files.set_aside([]) is None
    for number in (1, 2):
        (tmp_path / "a").write_text(str(number))
        folder = files.set_aside([tmp_path / "a"])
        assert folder == tmp_path / f"superseded_{number:03d}"
        assert (folder / "a").read_text() == str(number)
    shutil.rmtree(tmp_path / "superseded_001")
    (tmp_path / "a").touch()
    assert files.set_aside([tmp_path / "a"]) == tmp_path / "superseded_001"


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / ".x.tmp").symlink_to(tmp_path / "elsewhere")
    files.write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_links_are_removed_and_not_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "kept" / "deep").mkdir(parents=True)
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "gone" / "deep").mkdir(parents=True)
    (tmp_path / "gone" / "deep" / "file").touch()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    files.remove(tmp_path / "gone")
    files.remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["deep", "file"]


def test_folders_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert files.make_folders(path) == [path, path.parent]
    assert files.make_folders(path) == []
    assert path.is_dir()


def test_only_regular_files_have_a_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert files.regular_size(tmp_path / "x") == 3
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="not a regular file"):
            files.regular_size(tmp_path / name)
