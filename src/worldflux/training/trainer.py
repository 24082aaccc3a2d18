"""The trainer by WorldFlux's names."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from torch import nn

from worldline.config import to_dict
from worldline.data.buffer import ReplayBuffer
from worldline.models.base import Model
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

    A warning says so if the buffer's actions are of another type than the model was built for.

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
    _warn_of_other_actions(model, buffer)
    return core_train(
        model,
        buffer,
        total_steps=total_steps,
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        **settings,
    )


def _warn_of_other_actions(model: nn.Module, buffer: Data) -> None:
    """The documents name no type of actions, and the defaults of models and random buffers differ."""
    if not isinstance(model, Model) or not isinstance(buffer, ReplayBuffer) or buffer.num_episodes == 0:
        return
    built_for, found = to_dict(model.config).get("action_type"), buffer.spec.action_type
    if built_for not in (None, found):
        warnings.warn(
            f"The buffer's actions are {found}, but the model was built for {built_for} ones, and will choose such. "
            f"Build it with create_world_model(..., action_type={found!r}), or give it other data.",
            stacklevel=3,
        )
