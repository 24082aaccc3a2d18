"""Save checkpoints at intervals, and keep the newest, the best and the last."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from worldline.errors import ConfigError, nearest
from worldline.files import set_aside, write_atomically
from worldline.training.callbacks.base import Callback, Order
from worldline.training.checkpoint import list_checkpoints, remove_unfinished, save_checkpoint, step_of
from worldline.training.metrics import check_monitor, is_result, named_results, to_floats

if TYPE_CHECKING:
    from torch import Tensor

_BEST = "best.json"


class CheckpointCallback(Callback):
    """Writes `output_dir/step_NNNNNNNN` every `save_interval` steps and when training ends (not after an error).

    Checkpoints of another run, or of steps beyond the one that is resumed, are moved to `output_dir/superseded_*`
    when training begins; they are never deleted.

    Args:
        output_dir: The folder of checkpoints.
        save_interval: Steps between two of them; None for the trainer's `save_interval`.
        max_checkpoints: How many of the newest to keep; the best one is kept besides.
        monitor: Name of the metric that decides which is best: one of the losses, or "eval/NAME" for a result of an
            evaluation, of which the newest counts when a checkpoint is saved; there is no best before the first.
            `best.json` names the checkpoint. None for no best.
        mode: Whether a low ("min") or a high ("max") metric is good.
    """

    order = Order.SAVE

    def __init__(
        self,
        output_dir: str | os.PathLike[str] = "./checkpoints",
        save_interval: int | None = None,
        max_checkpoints: int = 3,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if max_checkpoints < 1 or (save_interval is not None and save_interval < 1) or mode not in ("min", "max"):
            raise ConfigError(
                "CheckpointCallback needs max_checkpoints and save_interval of at least 1 and mode 'min' or 'max'; "
                f"got {max_checkpoints}, {save_interval} and {mode!r}."
            )
        self.output_dir: Path = Path(output_dir)
        self.save_interval = save_interval
        self.max_checkpoints = max_checkpoints
        self.monitor = monitor
        self.mode = mode
        self.best_step: int | None = None
        self.best_value: float | None = None
        self._saved_step: int | None = None  # the newest checkpoint here that is of this run
        self._results: dict[str, float] = {}  # the newest of evaluations, by name
        self._has_warned = False  # that the monitor is not among them
        self._losses: Mapping[str, Tensor] = {}

    def on_train_begin(self) -> None:
        """Put away what does not belong to this run."""
        if self.trainer.ranks.is_main:
            remove_unfinished(self.output_dir)
        if self.trainer.step == 0:
            # A new run, if the callback has seen another one.
            self._saved_step = self.best_step = self.best_value = None
            self._results = {}
        resumed = self.trainer.last_checkpoint
        if resumed is not None and resumed.parent.resolve() == self.output_dir.resolve():
            self._saved_step = step_of(resumed)
        if not self.trainer.ranks.is_main:  # files are the first process's
            return
        stale = [
            path
            for path in list_checkpoints(self.output_dir)
            if self._saved_step is None or step_of(path) > self.trainer.step
        ]
        best = self.output_dir / _BEST  # it may name one of them; the next save writes it again
        if folder := set_aside([*stale, best] if stale and best.exists() else stale):
            warnings.warn(
                f"{self.output_dir} held {len(stale)} checkpoints that are not of this run. They are now in {folder}.",
                stacklevel=2,
            )

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the metrics, one of which may be monitored."""
        self._results.update(named_results(metrics))

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Save if it is time."""
        self._losses = losses
        if self.monitor is not None:
            check_monitor(self.monitor, losses, callback="CheckpointCallback")
        if step % (self.save_interval or self.trainer.config.save_interval) == 0:
            self._save()

    def on_train_end(self) -> None:
        """Save the last step, unless it is saved or training failed."""
        if self.trainer.status == "failed":
            return
        if self.trainer.step not in (0, self._saved_step):
            self._save()
        if self.monitor is not None and is_result(self.monitor) and self.best_value is None:
            self._warn_of_missing(f"up to step {self.trainer.step}")

    def state_dict(self) -> dict[str, Any]:
        """Return which step is best so far."""
        return {"best_step": self.best_step, "best_value": self.best_value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore which step is best so far."""
        self.best_step, self.best_value = state["best_step"], state["best_value"]

    def _save(self) -> None:
        self._judge()
        checkpoint = self.trainer.capture()  # which all processes do together
        self._saved_step = self.trainer.step
        if not self.trainer.ranks.is_main:
            return
        path = save_checkpoint(self.output_dir, checkpoint, self.trainer.model)
        self.trainer.last_checkpoint = path
        best = None if self.best_step is None else self.output_dir / f"step_{self.best_step:08d}"
        if best is not None:
            record = {"checkpoint": best.name, "step": self.best_step, self.monitor: self.best_value}
            write_atomically(self.output_dir / _BEST, (json.dumps(record) + "\n").encode())
        for old in list_checkpoints(self.output_dir)[: -self.max_checkpoints]:
            if old != best:
                shutil.rmtree(old)

    def _judge(self) -> None:
        """Decide whether the step about to be saved is the best one."""
        if self.monitor is None:
            return
        value = self._results.get(self.monitor)
        if self.monitor in self._losses:
            value = to_floats({self.monitor: self._losses[self.monitor]})[self.monitor]
        if value is None:  # no evaluation has given it yet; if there were some, it may never come
            if self._results:
                self._warn_of_missing("so far")
            return
        is_better = self.best_value is None or (
            value < self.best_value if self.mode == "min" else value > self.best_value
        )
        if is_better and math.isfinite(value):
            self.best_step, self.best_value = self.trainer.step, value

    def _warn_of_missing(self, when: str) -> None:
        assert self.monitor is not None
        if not self._has_warned and self.monitor not in self._results:
            warnings.warn(
                f"CheckpointCallback knows no best checkpoint: no evaluation gave {self.monitor!r} {when}. "
                f"{nearest(self.monitor, self._results)}",
                stacklevel=2,
            )
            self._has_warned = True
