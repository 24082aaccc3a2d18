"""Training by WorldFlux's names."""

from __future__ import annotations

from worldflux.training.callbacks import (
    Callback,
    CheckpointCallback,
    EarlyStoppingCallback,
    EvaluationCallback,
    LoggingCallback,
    ProgressCallback,
)
from worldflux.training.data import ReplayBuffer, create_random_buffer
from worldflux.training.trainer import Trainer, TrainingConfig, train
from worldline.batch import Batch, BatchRequest
from worldline.protocols import Sampler as BatchProvider

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
