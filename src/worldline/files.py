"""Files that are there in full or not at all, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a hidden sibling of each path to write to; they take the places of `paths`, of one folder, afterwards.

    All are flushed before the first is renamed, so a crash or a full disk leaves the old files as they were. A crash
    between two renames leaves some of either kind; after an error the siblings are deleted.
    """
    besides = tuple(path.with_name(f".{path.name}.tmp") for path in paths)
    try:
        yield besides
        for beside in besides:
            sync(beside)
        for beside, path in zip(besides, paths, strict=True):
            beside.replace(path)
        sync(paths[0].parent)
    finally:
        for beside in besides:
            beside.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old content or the new one."""
    with replacing(path) as (beside,):
        beside.write_bytes(content)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. Does nothing on Windows, which flushes only what is open to write."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def set_aside(paths: Sequence[Path]) -> Path | None:
    """Move `paths`, siblings, into a new folder `superseded_001`, `_002`, ... beside them, and return that folder."""
    if not paths:
        return None
    parent = paths[0].parent
    folders = (parent / f"superseded_{number:03d}" for number in itertools.count(1))
    folder = next(folder for folder in folders if not folder.exists())
    folder.mkdir()
    for path in paths:
        path.rename(folder / path.name)
    return folder
