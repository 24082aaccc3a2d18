"""Callbacks with the arguments of both generations of the documents."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

from worldline.errors import ConfigError
from worldline.training import callbacks as core
from worldline.training.callbacks import Callback, EarlyStoppingCallback, EvaluationCallback, ProgressCallback

__all__ = [
    "Callback",
    "CheckpointCallback",
    "EarlyStoppingCallback",
    "EvaluationCallback",
    "LoggingCallback",
    "ProgressCallback",
]

Folder: TypeAlias = str | os.PathLike[str]


class CheckpointCallback(core.CheckpointCallback):
    """Worldline's, whose `output_dir` may be called `save_dir` and whose `save_interval` may be called `save_every`.

    Args:
        output_dir: Folder of the checkpoints.
        save_interval: Optimiser steps between two checkpoints.
        max_checkpoints: How many to keep.
        save_dir: `output_dir`.
        save_every: `save_interval`.
        **options: Further arguments of Worldline's callback.

    Raises:
        ConfigError: Both names of one argument were given, or no folder.
    """

    def __init__(
        self,
        output_dir: Folder | None = None,
        save_interval: int | None = None,
        max_checkpoints: int = 3,
        *,
        save_dir: Folder | None = None,
        save_every: int | None = None,
        **options: Any,
    ) -> None:
        folder: Folder | None = _either("output_dir", output_dir, "save_dir", save_dir)
        if folder is None:
            raise ConfigError("CheckpointCallback needs a folder: give output_dir (or save_dir).")
        interval = _either("save_interval", save_interval, "save_every", save_every)
        if interval is not None:
            options["save_interval"] = interval
        super().__init__(folder, max_checkpoints=max_checkpoints, **options)


class LoggingCallback(core.LoggingCallback):
    """Worldline's, whose `output_dir` may be called `log_dir`.

    Args:
        log_interval: Optimiser steps between two lines.
        use_wandb: Log to Weights & Biases as well.
        log_dir: Folder of the logs; without it only the console is written.
        output_dir: `log_dir`.
        **options: Further arguments of Worldline's callback.

    Raises:
        ConfigError: Both names of the folder were given.
    """

    def __init__(
        self,
        log_interval: int = 100,
        use_wandb: bool = False,
        *,
        log_dir: Folder | None = None,
        output_dir: Folder | None = None,
        **options: Any,
    ) -> None:
        folder: Folder | None = _either("output_dir", output_dir, "log_dir", log_dir)
        super().__init__(log_interval=log_interval, output_dir=folder, use_wandb=use_wandb, **options)


def _either(name: str, value: Any, alias: str, aliased: Any) -> Any:
    """Return the one of two values that was given, or None."""
    if value is not None and aliased is not None:
        raise ConfigError(f"{alias} is another name of {name}; got both ({name}={value!r}, {alias}={aliased!r}).")
    return aliased if value is None else value
