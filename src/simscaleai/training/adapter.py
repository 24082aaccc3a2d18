"""Any `nn.Module` with `model(batch) -> {"loss": ..., ...}` as what Worldline's trainer trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from simscaleai.training.carrier import unpack
from worldline.batch import Batch
from worldline.errors import ConfigError, nearest
from worldline.protocols import Fitted, ParamGroup
from worldline.statistics import ColumnStatistics


@runtime_checkable
class PolicyModel(Protocol):
    """What the models of `ModelRegistry` have besides: training needs no predicted actions."""

    def training_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss" and other scalars."""
        ...

    def after_update(self) -> None:
        """Do what follows each optimiser step."""
        ...


@runtime_checkable
class BuiltByName(Protocol):
    """A model that knows how to build another one like it."""

    @property
    def built_as(self) -> tuple[str, Mapping[str, Any]] | None:
        """Its name in `ModelRegistry`, and its arguments there; None where it was built otherwise."""
        ...


class Adapter(nn.Module):
    """A model that takes dicts, as a `worldline.protocols.Trainable`.

    Attributes:
        model: The model itself.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ConfigError(f"A model is a torch.nn.Module; got a {type(model).__name__}.")
        self.model = model

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss", and whatever else the model reports that is one number.

        Raises:
            ConfigError: The model returns no dict with a scalar "loss".
        """
        model = self.model
        samples = unpack(batch)
        found = model.training_losses(samples) if isinstance(model, PolicyModel) else model(samples)
        if not isinstance(found, Mapping) or "loss" not in found:
            got = f"a dict without it. {nearest('loss', found)}" if isinstance(found, Mapping) else type(found).__name__
            raise ConfigError(f'{type(model).__name__} must return a dict with "loss"; got {got}')
        scalars = {
            str(name): torch.as_tensor(value, device=batch.device)
            for name, value in found.items()
            if isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)
        }
        if "loss" not in scalars:
            raise ConfigError(f'"loss" of {type(model).__name__} must be one number, a tensor of shape []. Average it.')
        return {name: value if name == "loss" else value.detach() for name, value in scalars.items()}

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return all parameters that take gradients, in one group, as `torch.optim.AdamW(model.parameters())` has."""
        return [ParamGroup(name="all", params=[p for p in self.model.parameters() if p.requires_grad])]

    def after_update(self) -> None:
        """Do what follows each optimiser step, where the model says what."""
        if isinstance(self.model, PolicyModel):
            self.model.after_update()

    @property
    def is_fitted(self) -> bool:
        """Whether the model has the statistics of its data, or wants none."""
        return self.model.is_fitted if isinstance(self.model, Fitted) else True

    def fit(self, statistics: Mapping[str, ColumnStatistics]) -> None:
        """Give the model the statistics of its data."""
        assert isinstance(self.model, Fitted)
        self.model.fit(statistics)
