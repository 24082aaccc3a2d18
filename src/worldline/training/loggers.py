"""Where logged numbers go: `metrics.jsonl`, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from worldline.files import set_aside, write_atomically


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
    steps never repeat or go back. A run that starts at 0 moves the file of an older run aside.
    """

    def __init__(self, path: Path, *, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if step == 0 and path.exists():
            folder = set_aside([path])
            warnings.warn(f"{path} was written by another run. It is now in {folder}.", stacklevel=2)
        elif path.exists():
            _keep_until(path, step)
        self._file = path.open("ab", buffering=0)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line. Values that are not finite become null, which JSON has and NaN it has not."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}).encode() + b"\n")

    def close(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()


class TensorBoardWriter:
    """Scalars for TensorBoard; on resume, what is beyond `step` is hidden."""

    def __init__(self, directory: Path, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    @staticmethod
    def is_installed() -> bool:
        """Return whether the package is there, without importing it."""
        return importlib.util.find_spec("tensorboard") is not None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add every metric as a scalar."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @classmethod
    def start(cls, config: Mapping[str, Any], directory: Path | None) -> WandbWriter | None:
        """Start a run, or warn and return None where that cannot be: not installed, not logged in, no network."""
        try:
            import wandb
        except ImportError:
            warnings.warn(
                "use_wandb=True, but wandb is not installed: logging goes on without it. "
                "Install it with: pip install 'worldline[wandb]'",
                stacklevel=2,
            )
            return None
        try:
            return cls(wandb.init(config=dict(config), dir=None if directory is None else str(directory)))
        except wandb.errors.Error as error:
            warnings.warn(f"Weights & Biases could not start, logging goes on without it: {error}", stacklevel=2)
            return None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log all metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _keep_until(path: Path, step: int) -> None:
    """Rewrite a metrics file so that it holds whole lines of steps up to `step` only, if it does not already."""
    content = path.read_bytes()
    kept = b"".join(line for line in content.splitlines(keepends=True) if _is_whole(line, step))
    if kept != content:
        write_atomically(path, kept)


def _is_whole(line: bytes, last_step: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    step = record.get("step") if isinstance(record, dict) else None
    return line.endswith(b"\n") and isinstance(step, int) and step <= last_step
