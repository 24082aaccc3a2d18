"""The training loop and what surrounds it: optimisers, callbacks, checkpoints, logs.

Loaded lazily: `worldline.training.config` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldline.training.callbacks import (
        Callback,
        CheckpointCallback,
        DataCallback,
        EarlyStoppingCallback,
        EvaluationCallback,
        HeldOutCallback,
        LoggingCallback,
        ProfilerCallback,
        ProgressCallback,
        TrainingClock,
    )
    from worldline.training.config import TrainingConfig
    from worldline.training.trainer import Trainer, train

_PUBLIC = {
    "Callback": "worldline.training.callbacks",
    "CheckpointCallback": "worldline.training.callbacks",
    "DataCallback": "worldline.training.callbacks",
    "EarlyStoppingCallback": "worldline.training.callbacks",
    "EvaluationCallback": "worldline.training.callbacks",
    "HeldOutCallback": "worldline.training.callbacks",
    "LoggingCallback": "worldline.training.callbacks",
    "ProfilerCallback": "worldline.training.callbacks",
    "ProgressCallback": "worldline.training.callbacks",
    "TrainingClock": "worldline.training.callbacks",
    "Trainer": "worldline.training.trainer",
    "TrainingConfig": "worldline.training.config",
    "train": "worldline.training.trainer",
}

__all__ = [
    "Callback",
    "CheckpointCallback",
    "DataCallback",
    "EarlyStoppingCallback",
    "EvaluationCallback",
    "HeldOutCallback",
    "LoggingCallback",
    "ProfilerCallback",
    "ProgressCallback",
    "Trainer",
    "TrainingClock",
    "TrainingConfig",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'worldline.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
