"""Callbacks by WorldLoom's names, which are WorldFlux's."""

from __future__ import annotations

from worldflux.training.callbacks import (
    Callback,
    CheckpointCallback,
    EarlyStoppingCallback,
    EvaluationCallback,
    LoggingCallback,
    ProgressCallback,
)

__all__ = [
    "Callback",
    "CheckpointCallback",
    "EarlyStoppingCallback",
    "EvaluationCallback",
    "LoggingCallback",
    "ProgressCallback",
]
