"""Disks that fail: layers to be put in the place of `worldline.files.change`, through which every save goes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from worldline import files


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


class Disk:
    """Counts the operations, and does them; but flushes, which take their time, it only counts."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.num_calls += 1
        return self.run(_unflushed if operation is os.fsync else operation, *args, **kwargs)

    def run(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return operation(*args, **kwargs)


class Dying(Disk):
    """The process dies at operation `at`, with half of its bytes on the disk if it `tears` and is a write.

    A dead process changes nothing: all that `finally` blocks try afterwards fails as well.
    """

    def __init__(self, at: int, *, tears: bool = False) -> None:
        super().__init__()
        self.at, self.tears = at, tears

    def run(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.num_calls < self.at:
            return self.live(operation, *args, **kwargs)
        if self.num_calls == self.at:
            self.die(operation, *args)
        raise Killed

    def live(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return operation(*args, **kwargs)

    def die(self, operation: Callable[..., Any], *args: Any) -> None:
        written = written_by(operation, args)
        if self.tears and written is not None:
            operation(*args)
            os.truncate(written, written.stat().st_size // 2)


class LosingPower(Dying):
    """The computer stops at operation `at`: below `root` all that was not flushed is lost, as filesystems may lose it.

    A file whose content was not flushed is empty. A new one whose folder was not flushed since is gone. A rename whose
    folder was not flushed since has happened, or, if `undoes`, has not.
    """

    def __init__(self, at: int, root: Path, *, undoes: bool) -> None:
        super().__init__(at)
        self.root, self.undoes = root, undoes
        self.contents: set[int] = set()  # inodes
        self.entries: set[tuple[int, str]] = set()  # (inode of the folder, name)
        self.renames: list[tuple[int, Path, Path]] = []  # (inode of the folder, from, to)

    def live(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if operation is _unflushed:
            inode = os.fstat(args[0]).st_ino
            self.contents.discard(inode)
            self.entries = {item for item in self.entries if item[0] != inode}
            self.renames = [item for item in self.renames if item[0] != inode]
        result = operation(*args, **kwargs)
        if written := written_by(operation, args):
            self.contents.add(written.stat().st_ino)
            self.entries.add((written.parent.stat().st_ino, written.name))
        if renamed := renamed_by(operation, args):
            folder = renamed[1].parent.stat().st_ino
            self.entries.discard((folder, renamed[0].name))
            self.renames.append((folder, *renamed))
        return result

    def die(self, operation: Callable[..., Any], *args: Any) -> None:
        for path in [path for path in self.root.rglob("*") if path.is_file()]:
            if path.stat().st_ino in self.contents:
                os.truncate(path, 0)
            if (path.parent.stat().st_ino, path.name) in self.entries:
                path.unlink()
        for _, old, new in reversed(self.renames if self.undoes else []):
            if new.exists() and not old.exists():
                new.rename(old)


class Full(Disk):
    """From operation `at` on there is no room for what is new, `times` times."""

    def __init__(self, at: int, *, times: int = 1_000_000) -> None:
        super().__init__()
        self.at, self.times = at, times

    def run(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        takes_room = written_by(operation, args) is not None or operation.__name__ in ("mkdir", "_unflushed", "rename")
        if self.at <= self.num_calls and takes_room and self.times > 0:
            self.times -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return operation(*args, **kwargs)


@contextlib.contextmanager
def on(disk: Disk) -> Iterator[Disk]:
    """Let everything that is saved go to `disk`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "change", disk)
        yield disk


def _unflushed(descriptor: int) -> None:
    """What flushing is on these disks."""


def written_by(operation: Callable[..., Any], args: tuple[Any, ...]) -> Path | None:
    """Return the file that the operation writes, if it does."""
    if operation is save_file:
        return Path(args[1])
    if operation.__name__ == "write_bytes":
        path: Path = operation.__self__  # type: ignore[attr-defined]
        return path
    return None


def renamed_by(operation: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Path, Path] | None:
    """Return the old and the new name that the operation gives, if it does."""
    if operation is os.replace:
        return Path(args[0]), Path(args[1])
    if operation.__name__ == "rename":
        return operation.__self__, Path(args[0])  # type: ignore[attr-defined]
    return None
