"""Logger: scalars, histograms and settings into `metrics.jsonl`, TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowshield.training.config import plain
from worldline.episode import check_finite, numeric_array
from worldline.errors import DataError
from worldline.files import write_atomically
from worldline.lock import FolderLock
from worldline.training.loggers import JsonlWriter, TensorBoardWriter, WandbWriter


class Logger:
    """Logs a training loop of one's own; a context manager, or close it.

    `metrics.jsonl` gets one line a step, TensorBoard (where it is installed) the folder `tensorboard`. A file that an
    older logger left in the folder is moved aside. While this one is open, no other process may write there.

    Args:
        log_dir: The folder; it is made if need be.
        use_wandb: Log to Weights & Biases; where that is not possible, a warning says so.

    Raises:
        FileError: The folder cannot be written to, or another process writes into it.
    """

    def __init__(self, log_dir: str | os.PathLike[str], use_wandb: bool = False) -> None:
        self.log_dir = Path(log_dir)
        self._lock = FolderLock(self.log_dir)
        self._lock.acquire()
        self._is_open = True
        self._lines = JsonlWriter(self.log_dir / "metrics.jsonl", step=0)
        self._pending: tuple[int, dict[str, float]] = (0, {})  # what the next line has so far
        self._others: list[TensorBoardWriter | WandbWriter] = []
        if TensorBoardWriter.is_installed():
            self._others.append(TensorBoardWriter(self.log_dir / "tensorboard", step=0))
        if use_wandb and (run := WandbWriter.start({}, self.log_dir)):
            self._others.append(run)

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log_scalar(self, name: str, value: float, step: int) -> None:
        """Record a number."""
        self._add(step, {name: float(value)})
        for writer in self._others:
            writer.write(step, {name: float(value)})

    def log_histogram(self, name: str, values: Any, step: int) -> None:
        """Record how `values`, an array of numbers, are distributed; `metrics.jsonl` gets five numbers of it.

        Raises:
            DataError: They are no finite numbers, or there are none.
        """
        array = numeric_array(name, values).reshape(-1)
        check_finite(name, array)
        if not array.size:
            raise DataError(f"The histogram {name!r} has no values. Log it when there are some.")
        quantiles = np.quantile(array.astype(np.float64), (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
        names = ("min", "25%", "50%", "75%", "max")
        self._add(step, {f"{name}/{label}": value for label, value in zip(names, quantiles, strict=True)})
        for writer in self._others:
            writer.write_histogram(step, name, array)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Write the settings to `config.json`, and to the other places.

        Raises:
            DataError: They are not JSON.
        """
        values = plain(config)
        try:
            text = json.dumps(values, indent=2) + "\n"
        except (TypeError, ValueError) as error:
            raise DataError(f"The settings cannot be written as JSON: {error}. Keep to plain values.") from error
        write_atomically(self.log_dir / "config.json", text.encode())
        for writer in self._others:
            writer.write_config(values)

    def close(self) -> None:
        """Write what is pending and close the files; a second time does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        step, metrics = self._pending
        if metrics:
            self._lines.write(step, metrics)
        self._lines.close()
        for writer in self._others:
            writer.close()
        self._lock.release()

    def _add(self, step: int, metrics: Mapping[str, float]) -> None:
        at, pending = self._pending
        if pending and at != step:
            self._lines.write(at, pending)
            pending = {}
        self._pending = (step, {**pending, **metrics})
