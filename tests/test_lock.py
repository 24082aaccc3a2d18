"""FolderLock: one process at a time, whatever becomes of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worldline import lock
from worldline.errors import FileError
from worldline.lock import FolderLock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")


# Takes the lock, says so, and keeps it until it is killed.
_HOLD = """
import sys
from pathlib import Path
from worldline.errors import FileError
from worldline.lock import FolderLock
try:
    with FolderLock(Path(sys.argv[1])):
        print("locked", flush=True)
        sys.stdin.read()
except FileError as error:
    print(error)
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], tuple[subprocess.Popen[str], str]]]:
    """Return a function that lets another process take a lock: the process, and what it said."""
    processes = []

    def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", _HOLD, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_second_process_is_told_who_has_the_lock(
    tmp_path: Path, hold: Callable[[Path], tuple[subprocess.Popen[str], str]]
) -> None:
    process, said = hold(tmp_path)
    assert said == "locked"
    with pytest.raises(FileError, match=rf"is in use by process {process.pid} on .*Wait until it has ended, or choose"):
        FolderLock(tmp_path).acquire()
    process.kill()
    process.wait()
    with FolderLock(tmp_path):
        assert f"in use by process {os.getpid()}" in hold(tmp_path)[1]
    assert hold(tmp_path)[1] == "locked"


def test_a_process_may_take_it_several_times(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path / "." / ".." / tmp_path.name)
    first.acquire()
    first.acquire()
    second.acquire()
    first.release()
    assert (tmp_path / ".lock").exists()
    second.release()
    second.release()
    assert list(tmp_path.iterdir()) == []
    assert lock._held == {}


def test_folders_made_for_the_lock_go_with_it_unless_they_are_used(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "c").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]


def test_a_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    taken = FolderLock(tmp_path)
    taken.acquire()
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(begins, b"!")
        os.read(reading, 1)  # lives on until the parent closes the pipe
        taken.release()
        os._exit(0 if (tmp_path / ".lock").exists() else 1)
    os.close(reading)
    os.read(begun, 1)
    try:
        # As if this process had died: its descriptors are closed, those of the child are not.
        (descriptor,) = [held.descriptor for held in lock._held.values()]
        assert descriptor is not None
        lock._held.clear()
        os.close(descriptor)
        with FolderLock(tmp_path):
            os.close(writing)
            writing = -1
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # and it does not delete that of others
    finally:
        if writing >= 0:
            os.close(writing)


def test_a_lock_that_is_deleted_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def racing(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # the former holder ends between the opening and the locking
            (tmp_path / ".lock").unlink()
        lock_open(descriptor)

    lock_open = lock._lock_open
    monkeypatch.setattr(lock, "_lock_open", racing)
    with FolderLock(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_filesystem_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "_lock_open", unsupported)
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    with pytest.warns(UserWarning, match=r"cannot be locked .*take care that no other process"):
        first.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        second.acquire()
    second.release()
    first.release()


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"[1]", b'{"pid": "x"}', b"[" * 100_000])
def test_what_the_file_says_is_not_trusted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".lock"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    lock._lock_open(descriptor)
    with pytest.raises(FileError, match="in use by another process"):
        FolderLock(tmp_path).acquire()
    os.close(descriptor)
    with FolderLock(tmp_path):
        assert f'"pid": {os.getpid()}' in path.read_text()


def test_what_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"Cannot write into the folder .*file: File exists"):
        FolderLock(tmp_path / "file").acquire()
    (tmp_path / "target").touch()
    (tmp_path / ".lock").symlink_to(tmp_path / "target")
    with pytest.raises(FileError, match="Cannot write into the folder"):
        FolderLock(tmp_path).acquire()
    assert (tmp_path / "target").read_bytes() == b""
