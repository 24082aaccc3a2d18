"""One process at a time writes into a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import warnings
from pathlib import Path
from types import TracebackType

from worldline import files
from worldline.errors import FileError, shown

if sys.platform != "win32":
    import fcntl

_NAME = ".lock"
_MAX_BYTES = 4096  # of what a lock file says


@dataclasses.dataclass
class _Held:
    """A lock of this process, however many of its objects ask for it."""

    descriptor: int | None  # None where the filesystem has no locks
    count: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.Lock()
_is_watching_forks = False


class FolderLock:
    """The right to write into a folder, for one process at a time; a context manager.

    The operating system holds it and takes it back when the process ends, however it ends. Within a process it can be
    taken several times, as the command line, the log and the checkpoints of one run do; child processes do not have it.
    Where the filesystem (or Windows) has no such locks, a warning says so and nothing is locked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key: Path | None = None
        self._made: list[Path] = []  # folders, by `acquire`

    def acquire(self) -> None:
        """Take the lock, unless this object has it; the folder is made if it is missing.

        Raises:
            FileError: Another process has it; the message says which. Or the folder cannot be written to.
        """
        if self._key is not None:
            return
        try:
            self._made = files.make_folders(self._folder)
            key = self._folder.resolve()
            with _guard:
                if key in _held:
                    _held[key].count += 1
                else:
                    _held[key] = _Held(_lock(key / _NAME))
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(
                f"Cannot write into the folder {self._folder}: {error.strerror or error}. Choose one that you may "
                "write to, with room for it."
            ) from error
        self._key = key

    def release(self) -> None:
        """Give the lock back, if this object has it; a folder that was made for it and is still empty goes, too."""
        key, self._key = self._key, None
        if key is None:
            return
        with _guard:
            held = _held.get(key)
            if held is None:  # of the parent process
                return
            held.count -= 1
            if held.count == 0:
                del _held[key]
                if held.descriptor is not None:
                    with contextlib.suppress(OSError):  # it is but a file left over
                        (key / _NAME).unlink()
                    os.close(held.descriptor)
        with contextlib.suppress(OSError):  # one that is not empty stays
            for folder in self._made:
                folder.rmdir()

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(path: Path) -> int | None:
    """Lock the file `path`, say in it who has it, and return its descriptor; None where there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock_open(descriptor)
            if _is_same(descriptor, path):
                break
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise FileError(
                f"{path.parent} is in use by {holder}. Wait until it has ended, or choose another folder."
            ) from error
        except OSError as error:
            os.close(descriptor)
            warnings.warn(
                f"{path.parent} cannot be locked ({error.strerror or error}): take care that no other process writes "
                "into it.",
                stacklevel=4,
            )
            return None
        os.close(descriptor)  # whoever had the lock has deleted the file since it was opened: begin again
    with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _description())
    _watch_forks()
    return descriptor


def _lock_open(descriptor: int) -> None:
    if sys.platform == "win32":
        raise OSError("Windows has no such locks")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _description() -> bytes:
    text = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:1000]}
    return json.dumps(text).encode() + b"\n"


def _holder(descriptor: int) -> str:
    """Return who has the lock, as its file says: whatever wrote it may be of another release, or not be done yet."""
    try:
        text = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        return f"process {int(text['pid'])} on {shown(text['host'])} ({shown(text['command'])})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _watch_forks() -> None:
    """See to it that no child process keeps the locks of this one when it is gone."""
    global _is_watching_forks
    if not _is_watching_forks:
        os.register_at_fork(after_in_child=_forget)
        _is_watching_forks = True


def _forget() -> None:
    global _guard
    _guard = threading.Lock()  # another thread may have had it
    for held in _held.values():
        if held.descriptor is not None:
            os.close(held.descriptor)
    _held.clear()
