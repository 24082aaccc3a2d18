"""Files that are either there in full or not at all."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old content or the new one."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync(path.parent)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def set_aside(paths: list[Path]) -> Path | None:
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
