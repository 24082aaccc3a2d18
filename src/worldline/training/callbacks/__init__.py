"""Callbacks: what happens around the training loop, one idea a file."""

from worldline.training.callbacks.base import Callback
from worldline.training.callbacks.checkpoint import CheckpointCallback
from worldline.training.callbacks.clock import TrainingClock
from worldline.training.callbacks.data import DataCallback
from worldline.training.callbacks.early_stopping import EarlyStoppingCallback
from worldline.training.callbacks.evaluation import EvaluationCallback, HeldOutCallback
from worldline.training.callbacks.logging import LoggingCallback
from worldline.training.callbacks.profiler import ProfilerCallback
from worldline.training.callbacks.progress import ProgressCallback

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
    "TrainingClock",
]
