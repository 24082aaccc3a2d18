"""Training by FlowShield's names."""

from __future__ import annotations

from flowshield.training.checkpoint import load_checkpoint, save_checkpoint
from flowshield.training.collector import DataCollector
from flowshield.training.commands import compute_hindsight_commands, sample_future_commands
from flowshield.training.config import TrainerConfig, register_groups
from flowshield.training.dataset import CommandDataset, TrajectoryDataset
from flowshield.training.logger import Logger
from flowshield.training.schedules import EarlyStopping, LearningRateScheduler
from flowshield.training.trainer import Trainer

__all__ = [
    "CommandDataset",
    "DataCollector",
    "EarlyStopping",
    "LearningRateScheduler",
    "Logger",
    "Trainer",
    "TrainerConfig",
    "TrajectoryDataset",
    "compute_hindsight_commands",
    "load_checkpoint",
    "register_groups",
    "sample_future_commands",
    "save_checkpoint",
]
