"""Files are there in full or not at all; nothing is deleted to make room."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from worldline.training import files


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


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
