"""Stop when a metric no longer improves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldline.errors import ConfigError, nearest
from worldline.training.callbacks.base import Callback
from worldline.training.metrics import check_monitor, is_result, named_results


class EarlyStoppingCallback(Callback):
    """Stops training when `monitor` has not fallen by `min_delta` for `patience` steps.

    A loss is averaged on the device and looked at every `check_interval` steps, so that one lucky batch is not taken
    for progress and no step waits; values that are not finite are left out. A result of an evaluation ("eval/NAME") is
    looked at when there is a new one.

    Args:
        monitor: Name of a loss, or "eval/NAME" for a result of an evaluation; lower is better.
        patience: Steps without an improvement after which to stop.
        min_delta: By how much the metric must fall to count as improved.
        check_interval: Steps over which a loss is averaged; None for the trainer's `log_interval`, but at most
            `patience`.
    """

    def __init__(
        self,
        monitor: str = "loss",
        patience: int = 5000,
        min_delta: float = 1e-4,
        check_interval: int | None = None,
    ) -> None:
        if patience < 1 or min_delta < 0 or (check_interval is not None and check_interval < 1):
            raise ConfigError(
                "EarlyStoppingCallback needs patience and check_interval of at least 1 and min_delta of at least 0; "
                f"got {patience}, {check_interval} and {min_delta}."
            )
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.check_interval = check_interval
        self.best_value: float | None = None
        self.best_step = 0
        self._sum: Tensor | float = 0.0
        self._count: Tensor | int = 0  # of finite losses
        self._known: dict[str, float] = {}  # results of evaluations

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Add the loss to the mean; look at it every `check_interval` steps."""
        check_monitor(self.monitor, losses, callback="EarlyStoppingCallback")
        if self.monitor in losses:
            loss = losses[self.monitor]
            is_finite = loss.isfinite()  # not that of a step which was skipped or rolled back
            self._sum = self._sum + torch.where(is_finite, loss, 0.0)
            self._count = self._count + is_finite
            if step % self._interval == 0:
                total, count = float(self._sum), int(self._count)
                self._sum, self._count = 0.0, 0
                if count > 0:
                    self._judge(step, total / count)

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Look at the metric, if it is the monitored one."""
        results = named_results(metrics)
        if self.monitor in results:
            self._judge(step, results[self.monitor])
        self._known.update(results)

    def on_train_end(self) -> None:
        """Say so if there was nothing to look at."""
        if is_result(self.monitor) and self.best_value is None and self.trainer.status != "failed":
            warnings.warn(
                f"EarlyStoppingCallback never stopped, because no evaluation gave {self.monitor!r} up to step "
                f"{self.trainer.step}. {nearest(self.monitor, self._known)}",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far and the unfinished mean."""
        return {
            "best_value": self.best_value,
            "best_step": self.best_step,
            "sum": float(self._sum),
            "count": int(self._count),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best value so far and the unfinished mean."""
        self.best_value, self.best_step = state["best_value"], state["best_step"]
        self._sum, self._count = state["sum"], state["count"]

    @property
    def _interval(self) -> int:
        return self.check_interval or min(self.trainer.config.log_interval, self.patience)

    def _judge(self, step: int, value: float) -> None:
        if self.best_value is None or value < self.best_value - self.min_delta:
            self.best_value, self.best_step = value, step
        elif step - self.best_step >= self.patience:
            self.trainer.request_stop(
                f"{self.monitor} has not improved on {self.best_value:.6g} since step {self.best_step}"
            )
