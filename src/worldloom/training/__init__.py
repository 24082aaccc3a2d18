"""Training by WorldLoom's names, which are WorldFlux's."""

from __future__ import annotations

from worldflux.training import (
    Batch,
    BatchProvider,
    BatchRequest,
    Callback,
    CheckpointCallback,
    EarlyStoppingCallback,
    EvaluationCallback,
    LoggingCallback,
    ProgressCallback,
    ReplayBuffer,
    Trainer,
    TrainingConfig,
    create_random_buffer,
    train,
)

__all__ = [
    "Batch",
    "BatchProvider",
    "BatchRequest",
    "Callback",
    "CheckpointCallback",
    "EarlyStoppingCallback",
    "EvaluationCallback",
    "LoggingCallback",
    "ProgressCallback",
    "ReplayBuffer",
    "Trainer",
    "TrainingConfig",
    "create_random_buffer",
    "train",
]
