"""The trainer by WorldFlux's names."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from worldline.training.config import TrainingConfig
from worldline.training.source import Data
from worldline.training.trainer import Trainer
from worldline.training.trainer import train as core_train

__all__ = ["Trainer", "TrainingConfig", "train"]

ModelT = TypeVar("ModelT", bound=nn.Module)


def train(
    model: ModelT,
    buffer: Data,
    total_steps: int = 100_000,
    batch_size: int = 16,
    sequence_length: int = 50,
    learning_rate: float = 3e-4,
    **settings: Any,
) -> ModelT:
    """Train `model` on `buffer` and return it: `worldline.train`, whose `data` is called `buffer` here.

    Args:
        model: The model to train, in place.
        buffer: A replay buffer, or a provider of either protocol.
        total_steps: Optimiser steps.
        batch_size: B, windows in a batch.
        sequence_length: T, rows of a window.
        learning_rate: Peak learning rate.
        **settings: Further fields of `TrainingConfig`, and `callbacks`, `resume_from`.

    Raises:
        ConfigError: An unknown setting (with the nearest known one) or an impossible value.
    """
    return core_train(
        model,
        buffer,
        total_steps=total_steps,
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        **settings,
    )
