"""What the agent and the shields share: how they are saved, loaded, and built from Worldline's settings."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch

from worldline.create import create_adapted
from worldline.errors import ConfigError
from worldline.models.base import Model
from worldline.statistics import ColumnStatistics

# Family -> the class here that has FlowShield's names for its methods; imported when one is built.
_CLASSES = {
    "udrl": ("flowshield.models.agent", "UDRLAgent"),
    "flow_matching_shield": ("flowshield.models.shields", "FlowMatchingShield"),
    "diffusion_shield": ("flowshield.models.shields", "DiffusionShield"),
    "quantile_shield": ("flowshield.models.shields", "QuantileShield"),
}

AdaptedT = TypeVar("AdaptedT", bound="Adapted")


class Adapted(Model):
    """A model with FlowShield's names. Saved, it is one of its family and nothing else."""

    own: ClassVar[type[Model]]  # the family's class

    @classmethod
    def from_config(cls: type[AdaptedT], config: Any) -> AdaptedT:
        """Return a new model with Worldline's settings, in the place of FlowShield's constructor."""
        model = cls.__new__(cls)
        cls.own.__init__(model, config)
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` into the folder `path`.

        Raises:
            FileError: It cannot be written.
        """
        self.save_pretrained(path)

    @classmethod
    def load(cls: type[AdaptedT], path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> AdaptedT:
        """Return the model that `save` wrote into the folder `path`, in evaluation mode.

        Raises:
            FileError: A file is missing or damaged.
            ConfigError: It is another kind of model, or its settings cannot be used.
            DataError: Its weights are not those of its settings.
        """
        model = create_adapted(Path(path), device=device, settings={}, adapt=adapted)
        if not isinstance(model, cls):
            raise ConfigError(
                f"{os.fspath(path)} holds a {type(model).__name__}, not a {cls.__name__}. Load it as that."
            )
        return model


def adapted(own: type[Model]) -> type[Model]:
    """Return what builds the model of a family with FlowShield's names; the family's own class if there is none."""
    if own.family not in _CLASSES:
        return own
    module, name = _CLASSES[own.family]
    found: type[Adapted] = getattr(importlib.import_module(module), name)
    return cast("type[Model]", found.from_config)


def typical_statistics(state_dim: int, command_dim: int) -> Mapping[str, ColumnStatistics]:
    """Return statistics of data that nobody knows: states as they are, up to 1000 steps, returns of some hundreds."""
    commands = {"mean": 0.0, "std": 100.0, "low": -1000.0, "high": 1000.0}
    columns = {name: np.full(command_dim, value) for name, value in commands.items()}
    columns["low"][0] = 1.0
    zeros, ones = np.zeros(state_dim), np.ones(state_dim)
    return {
        "obs": ColumnStatistics(count=1, mean=zeros, std=ones, low=-ones, high=ones),
        "commands": ColumnStatistics(count=1, **columns),
    }
