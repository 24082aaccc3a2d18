"""Files that are there in full or not at all, and their digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_CHUNK_BYTES = 1 << 20


def change(operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `operation`, which changes the disk.

    Every write, flush, rename, removal and new folder of a save is one call of this function: here the tests put a disk
    that is full, a process that dies, or a computer that loses its power.
    """
    return operation(*args, **kwargs)


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a hidden sibling of each path to write to; they take the places of `paths`, of one folder, afterwards.

    All are flushed before the first is renamed, so a crash or a full disk leaves the old files as they were. A crash
    between two renames leaves some of either kind; after an error the siblings are deleted.
    """
    besides = tuple(path.with_name(f".{path.name}.tmp") for path in paths)
    _unlink(besides)  # left by a kill; or a link, which would lead what is written elsewhere
    try:
        yield besides
        for beside in besides:
            sync(beside)
        for beside, path in zip(besides, paths, strict=True):
            change(os.replace, beside, path)
        sync(paths[0].parent)
    finally:
        _unlink(besides)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling folder to write into, which takes the place of `path` once all in it is on the disk.

    After an error it is deleted.

    Raises:
        FileExistsError: `path` is there already; it is left as it is.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it is there already", str(path))
    beside = path.with_name(f".{path.name}.tmp")
    if os.path.lexists(beside):  # left by a kill
        remove(beside)
    make_folders(path.parent)
    change(beside.mkdir)
    try:
        yield beside
        for folder, _, names in os.walk(beside):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
        change(os.rename, beside, path)
        sync(path.parent)
    finally:
        if beside.exists():
            remove(beside)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old content or the new one."""
    with replacing(path) as (beside,):
        change(beside.write_bytes, content)


def make_folders(path: Path) -> list[Path]:
    """Make a folder and those above it, wait until they are on the disk, and return those that were missing."""
    missing = list(itertools.takewhile(lambda folder: not folder.is_dir(), (path, *path.parents)))
    for folder in reversed(missing):
        change(folder.mkdir, exist_ok=True)
        sync(folder.parent)
    return missing


def remove(path: Path) -> None:
    """Delete a file, a link (not what it leads to), or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        for item in path.iterdir():
            remove(item)
        change(path.rmdir)
    else:
        change(path.unlink)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. Does nothing on Windows, which flushes only what is open to write."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        change(os.fsync, descriptor)
    finally:
        os.close(descriptor)


def regular_size(path: Path) -> int:
    """Return the size of a regular file in bytes.

    Raises:
        OSError: It is missing, or a folder or device, which could be read for ever.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a regular file")
    return status.st_size


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def total_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links are not followed."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(item.lstat().st_size for item in path.rglob("*") if item.is_file() and not item.is_symlink())


def set_aside(paths: Sequence[Path]) -> Path | None:
    """Move `paths`, siblings, into a new folder `superseded_001`, `_002`, ... beside them, and return that folder."""
    if not paths:
        return None
    parent = paths[0].parent
    folders = (parent / f"superseded_{number:03d}" for number in itertools.count(1))
    folder = next(folder for folder in folders if not folder.exists())
    change(folder.mkdir)
    for path in paths:
        change(path.rename, folder / path.name)
    sync(folder)
    sync(parent)
    return folder


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            change(path.unlink)
