"""Where logged numbers go: `metrics.jsonl`, TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sqlite3
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from worldline.episode import Array
from worldline.errors import FileError
from worldline.files import set_aside, write_atomically

_FLUSH_SECONDS = 5


class MetricWriter(Protocol):
    """Takes the metrics of a step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` of `step`; steps only ever grow."""
        ...

    def close(self) -> None:
        """Finish what was written."""
        ...


class JsonlWriter:
    """One JSON object a line, each with its "step". Lines are appended whole, by one write each.

    Opening the file for a run that continues after `step` drops a torn last line and all lines beyond `step`, so that
    steps never repeat or go back. A run that starts at 0 moves the file of an older run aside. What a full disk does
    not take is kept and written with the next line.

    Raises:
        FileError: The file is a link, which may lead anywhere, or cannot be opened.
    """

    def __init__(self, path: Path, *, step: int) -> None:
        self._path = path
        self._pending = b""  # lines that could not be written yet
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise FileError(f"{path} is a link or a device. Delete it, or choose another folder.")
            if step == 0 and path.exists():
                folder = set_aside([path])
                warnings.warn(f"{path} was written by another run. It is now in {folder}.", stacklevel=2)
            elif path.exists():
                _keep_until(path, step)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"Cannot write {path}: {error}. Choose a folder you may write to.") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line. Values that are not finite become null, which JSON has and NaN it has not."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        has_failed = bool(self._pending)
        self._pending += json.dumps({"step": step, **finite}).encode() + b"\n"
        error = self._flush()
        if error is not None and not has_failed:
            warnings.warn(f"Cannot write {self._path}: {error}. The log is kept until there is room.", stacklevel=3)

    def close(self) -> None:
        """Flush the file to the disk."""
        if error := self._flush():
            warnings.warn(f"The end of {self._path} is lost: {error}.", stacklevel=3)
        else:
            os.fsync(self._file.fileno())
        self._file.close()

    def _flush(self) -> OSError | None:
        """Write all lines, or as many bytes of them as can be, and return why not all."""
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            return error
        return None


class TensorBoardWriter:
    """Scalars for TensorBoard, which hides what an older part of the run, or an older run, wrote beyond `step`.

    A kill loses the last `_FLUSH_SECONDS` of them at most. A disk that cannot be written ends these files, not the run:
    `metrics.jsonl` has the same numbers.
    """

    def __init__(self, directory: Path, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._has_failed = False
        self._writer = SummaryWriter(str(directory), purge_step=step + 1, flush_secs=_FLUSH_SECONDS)

    @staticmethod
    def is_installed() -> bool:
        """Return whether the package is there, without importing it."""
        return importlib.util.find_spec("tensorboard") is not None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add every metric as a scalar."""
        if self._has_failed:
            return
        try:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:  # of its thread, maybe from an earlier step
            self._fail(error)

    def write_histogram(self, step: int, name: str, values: Array) -> None:
        """Add how `values [N]` are distributed."""
        if self._has_failed:
            return
        try:
            self._writer.add_histogram(name, values, step)
        except OSError as error:
            self._fail(error)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Add settings as text."""
        if self._has_failed:
            return
        try:
            self._writer.add_text("config", f"```json\n{json.dumps(dict(config), indent=2)}\n```", 0)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Write what is buffered."""
        try:
            self._writer.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._has_failed:
            warnings.warn(f"TensorBoard's files cannot be written any more: {error}.", stacklevel=3)
        self._has_failed = True


class WandbWriter:
    """A Weights & Biases run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @classmethod
    def start(
        cls, config: Mapping[str, Any], directory: Path | None, options: Mapping[str, Any] = MappingProxyType({})
    ) -> WandbWriter | None:
        """Start a run, or warn and return None where that cannot be: not installed, not logged in, no network.

        `options` are further arguments of `wandb.init`.
        """
        try:
            import wandb
        except ImportError:
            _warn_of_missing("wandb")
            return None
        try:
            where = None if directory is None else str(directory)
            return cls(wandb.init(**{"config": dict(config), "dir": where, **options}))
        except wandb.errors.Error as error:
            warnings.warn(f"Weights & Biases could not start, logging goes on without it: {error}", stacklevel=2)
            return None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log all metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def write_histogram(self, step: int, name: str, values: Array) -> None:
        """Log how `values [N]` are distributed."""
        import wandb

        self._run.log({name: wandb.Histogram(values.tolist())}, step=step)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Add settings to those of the run."""
        self._run.config.update(dict(config), allow_val_change=True)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class TrackioWriter:
    """A trackio run: a local database, or what trackio's own environment variables name."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @classmethod
    def start(cls, config: Mapping[str, Any], directory: Path | None) -> TrackioWriter | None:
        """Start a run, or warn and return None where that cannot be: not installed, no place for its database."""
        try:
            import trackio
        except ImportError:
            _warn_of_missing("trackio")
            return None
        name = None if directory is None else directory.resolve().name
        try:
            return cls(trackio.init(project="worldline", name=name, config=dict(config)))
        except (OSError, ValueError, sqlite3.Error) as error:
            warnings.warn(f"trackio could not start, logging goes on without it: {error}", stacklevel=2)
            return None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log all metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _warn_of_missing(package: str) -> None:
    warnings.warn(
        f"use_{package}=True, but {package} is not installed: logging goes on without it. "
        f"Install it with: pip install 'worldline[{package}]'",
        stacklevel=3,
    )


def _keep_until(path: Path, step: int) -> None:
    """Rewrite a metrics file so that it holds whole lines of growing steps up to `step` only, if it does not yet."""
    content = path.read_bytes()
    kept, newest = [], -1
    for line in content.split(b"\n")[:-1]:  # what follows the last line end is torn
        written = _step_of(line)
        if written is not None and newest < written <= step:
            kept.append(line + b"\n")
            newest = written
    if (whole := b"".join(kept)) != content:
        write_atomically(path, whole)


def _step_of(line: bytes) -> int | None:
    """Return the step of a line of a metrics file, or None where it is no such line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else None
