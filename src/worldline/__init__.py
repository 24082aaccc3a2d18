"""Worldline: one data layer, one trainer, one command line for agents that learn from trajectories.

Everything below is loaded when it is first used, so that `import worldline` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldline.batch import Batch, BatchRequest
    from worldline.create import create_model, list_models, load_model
    from worldline.data.buffer import ReplayBuffer
    from worldline.data.synthetic import create_random_buffer
    from worldline.episode import DataSpec, Episode
    from worldline.errors import WorldlineError
    from worldline.evaluation.rollout import evaluate_policy
    from worldline.training.config import TrainingConfig
    from worldline.training.trainer import Trainer, train

__version__ = "0.1.0"

_PUBLIC = {
    "Batch": "worldline.batch",
    "BatchRequest": "worldline.batch",
    "DataSpec": "worldline.episode",
    "Episode": "worldline.episode",
    "ReplayBuffer": "worldline.data.buffer",
    "Trainer": "worldline.training.trainer",
    "TrainingConfig": "worldline.training.config",
    "WorldlineError": "worldline.errors",
    "create_model": "worldline.create",
    "create_random_buffer": "worldline.data.synthetic",
    "evaluate_policy": "worldline.evaluation.rollout",
    "list_models": "worldline.create",
    "load_model": "worldline.create",
    "train": "worldline.training.trainer",
}

__all__ = [
    "Batch",
    "BatchRequest",
    "DataSpec",
    "Episode",
    "ReplayBuffer",
    "Trainer",
    "TrainingConfig",
    "WorldlineError",
    "create_model",
    "create_random_buffer",
    "evaluate_policy",
    "list_models",
    "load_model",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'worldline' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
