"""EarlyStopping and LearningRateScheduler, for training loops of one's own.

`Trainer` needs neither: Worldline's trainer has its own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from worldline.config import from_dict
from worldline.errors import ConfigError, nearest
from worldline.training.config import TrainingConfig, learning_rate_at


class EarlyStopping:
    """Tells when a validation loss no longer falls.

    Args:
        patience: Calls without an improvement after which to stop.
        min_delta: By how much the loss must fall below the best one to count as improved.

    >>> stopping = EarlyStopping(patience=2, min_delta=0.1)
    >>> [stopping(loss) for loss in (1.0, 0.95, 0.5, 0.45, 0.44)]
    [False, False, False, False, True]
    """

    def __init__(self, patience: int = 10, min_delta: float = 1e-4) -> None:
        if patience < 1 or not min_delta >= 0:
            raise ConfigError(f"EarlyStopping needs patience >= 1 and min_delta >= 0; got {patience} and {min_delta}.")
        self.patience = patience
        self.min_delta = min_delta
        self.best = math.inf
        self.num_bad = 0  # calls since the best

    def __call__(self, val_loss: float) -> bool:
        """Take the loss of an epoch, and return whether to stop. NaN is no improvement."""
        if val_loss < self.best - self.min_delta or (math.isinf(self.best) and val_loss < self.best):
            self.best, self.num_bad = val_loss, 0
        else:
            self.num_bad += 1
        return self.num_bad >= self.patience


_TYPES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    n_epochs: int = 200
    warmup_epochs: int = 0
    eta_min: float = 0.0  # what a falling rate ends at, as a fraction of the first one


class LearningRateScheduler:
    """Sets the learning rates of an optimiser by the epoch: a function of the epoch, so there is nothing to save.

    Args:
        optimizer: Its groups' rates, as they are now, are the highest ones.
        scheduler_type: "cosine", "linear" or "constant".
        **kwargs: `n_epochs` (200) after which the rate has fallen, also called `T_max`; `warmup_epochs` (0) in which it
            rises; `eta_min` (0), the fraction of its peak that it falls to.

    Raises:
        ConfigError: An unknown type or keyword, or an impossible value.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler_type: str = "cosine", **kwargs: Any) -> None:
        if scheduler_type not in _TYPES:
            raise ConfigError(f"No scheduler is called {scheduler_type!r}. {nearest(scheduler_type, _TYPES)}")
        if "T_max" in kwargs:
            kwargs["n_epochs"] = kwargs.pop("T_max")
        settings = from_dict(_Settings, kwargs, where="LearningRateScheduler")
        self._config = from_dict(
            TrainingConfig,
            {
                "schedule": scheduler_type,
                "learning_rate": 1.0,
                "total_steps": settings.n_epochs,
                "warmup_steps": settings.warmup_epochs,
                "final_rate": settings.eta_min,
            },
        )
        self._groups = [(group, float(group["lr"])) for group in optimizer.param_groups]
        self.step(0)

    def step(self, epoch: int) -> None:
        """Set the rates of `epoch`, counted from 0."""
        for group, peak in self._groups:
            group["lr"] = peak * learning_rate_at(self._config, epoch + 1)
