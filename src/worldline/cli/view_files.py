"""Which runs a folder holds, and the only way in which `worldline view` reads them.

A request never becomes a path: it names one of the runs that `find_runs` found. Their files are opened one folder after
the other without following a link, and read up to a limit.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from worldline.cli import runs
from worldline.errors import FileError

_MAX_DEPTH = 3  # of runs below the folder, such as runs/compare/bc-small
_MAX_FOLDERS, _MAX_ENTRIES = 2000, 10_000  # that are looked at, and of one folder
_INNER = {runs.CHECKPOINTS, runs.FINAL, "replay", "tensorboard", "profile"}  # folders of a run, not runs
_NUM_CHUNKS = 64  # of a large file, from all of its length
_TAIL_BYTES = 64 << 10  # of it that are read besides, for the newest lines
_MAX_NAME = 200  # letters of a metric's name
_LARGE, _MAX_STEP = 1e100, 1 << 53  # beyond them numbers are damage, and cannot be drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A folder with a run, or with a report."""

    root: Path  # the folder that is served, resolved
    parts: tuple[str, ...]  # the way from there
    files: frozenset[str]  # names of regular files in it, when it was found

    @property
    def name(self) -> str:
        """What addresses call it: the way to it, the served folder's name first."""
        return "/".join([self.root.name or "root", *self.parts])

    @property
    def label(self) -> str:
        """What pages call it."""
        return "/".join(self.parts) or self.name

    @property
    def is_run(self) -> bool:
        """Whether it has curves or settings, not only a report."""
        return runs.METRICS in self.files or runs.CONFIG in self.files

    def read(self, file: str, max_bytes: int) -> bytes:
        """Return what the file holds.

        Raises:
            FileError: It is missing, larger, no regular file, or behind a link.
        """
        with self.open(file) as opened:
            content = opened.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise FileError(f"{self.name}/{file} is larger than {max_bytes:,} bytes, the most that is shown.")
        return content

    def open(self, file: str) -> BinaryIO:
        """Open one of the folder's files.

        Raises:
            FileError: It is missing, no regular file, or behind a link.
        """
        assert file not in ("", ".", "..")
        assert "/" not in file
        try:
            opened = _open_without_links(self.root, (*self.parts, file))
        except OSError as error:
            raise FileError(f"{self.name}/{file} cannot be read: {error.strerror}.") from error
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            opened.close()
            raise FileError(f"{self.name}/{file} is no regular file.")
        return opened

    def changed_at(self, name: str) -> float:
        """Return when a file or folder in it was last changed, in seconds since 1970; 0 if it is missing or a link."""
        try:
            found = self.root.joinpath(*self.parts, name).lstat()
        except OSError:
            return 0.0
        return 0.0 if stat.S_ISLNK(found.st_mode) else found.st_mtime

    def metrics(self, max_bytes: int) -> list[dict[str, float]]:
        """Return lines of `metrics.jsonl`, all of them up to `max_bytes`, otherwise a sample over the whole run.

        The newest lines are among them. Steps grow; values that are no sensible numbers are NaN.
        """
        try:
            opened = self.open(runs.METRICS)
        except FileError:
            return []
        with opened:
            rows = [row for part in _sample(opened, max_bytes) for row in runs.parse_metrics(part)]
        kept: list[dict[str, float]] = []
        for row in rows:
            if (kept[-1]["step"] if kept else -1) < row["step"] <= _MAX_STEP:
                kept.append({name: _tame(value) for name, value in row.items() if len(name) <= _MAX_NAME})
        return kept


def find_runs(root: Path) -> dict[str, RunFolder]:
    """Return the runs in the folder `root`, which may be one itself, by name; links are not followed."""
    return {folder.name: folder for folder in _walk(root) if folder.is_run or runs.REPORT in folder.files}


def _walk(root: Path) -> Iterator[RunFolder]:
    waiting: list[tuple[str, ...]] = [()]
    for _ in range(_MAX_FOLDERS):
        if not waiting:
            return
        parts = waiting.pop()
        try:
            with os.scandir(root.joinpath(*parts)) as entries:
                found = sorted(itertools.islice(entries, _MAX_ENTRIES), key=lambda entry: entry.name)
        except OSError:  # not ours to read, or gone
            continue
        files = frozenset(entry.name for entry in found if entry.is_file(follow_symlinks=False))
        yield RunFolder(root=root, parts=parts, files=files)
        if len(parts) < _MAX_DEPTH:
            waiting += [(*parts, entry.name) for entry in found if _may_hold_runs(entry)]


def _may_hold_runs(entry: os.DirEntry[str]) -> bool:
    is_inner = entry.name in _INNER or entry.name.startswith((".", "superseded_", "nonfinite_step_"))
    return not is_inner and entry.is_dir(follow_symlinks=False)


def _open_without_links(root: Path, parts: tuple[str, ...]) -> BinaryIO:
    if os.open not in os.supports_dir_fd:  # Windows
        path = root.joinpath(*parts)
        if path.resolve() != path:
            raise FileNotFoundError(None, "it is behind a link")
        return path.open("rb")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Does not wait for somebody to write to what is a pipe.
        return os.fdopen(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb")
    finally:
        os.close(folder)


def _sample(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Yield whole lines: all of a file of at most `max_bytes`, or parts of it from the first to the last ones."""
    size = os.fstat(file.fileno()).st_size
    if size <= max_bytes:
        yield file.read(max_bytes)
        return
    length = max_bytes // _NUM_CHUNKS
    starts = [(size - _TAIL_BYTES) * number // _NUM_CHUNKS for number in range(_NUM_CHUNKS)]
    for start, num_bytes in (*((start, length) for start in starts), (size - _TAIL_BYTES, _TAIL_BYTES)):
        file.seek(start)
        content = file.read(num_bytes)
        if start:
            content = content.partition(b"\n")[2]
        yield content[: content.rfind(b"\n") + 1]


def _tame(value: float) -> float:
    if abs(value) < 1 / _LARGE:
        return 0.0
    return value if abs(value) < _LARGE else math.nan
