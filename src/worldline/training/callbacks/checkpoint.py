"""Save checkpoints at intervals, and keep the newest, the best and the last."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from worldline.errors import ConfigError, DataError, FileError, nearest, shown
from worldline.files import set_aside, write_atomically
from worldline.lock import FolderLock
from worldline.training.callbacks.base import Callback, Order
from worldline.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    remove_checkpoint,
    remove_unfinished,
    save_checkpoint,
    step_of,
)
from worldline.training.metrics import check_monitor, is_result, named_results, to_floats

if TYPE_CHECKING:
    from torch import Tensor

Best: TypeAlias = "tuple[int | None, float | None]"  # step and value

_BEST = "best.json"


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A save that is being written in the background."""

    step: int
    former_best: Best  # what was best before it
    result: Future[FileError | None]


class CheckpointCallback(Callback):
    """Writes `output_dir/step_NNNNNNNN` every `save_interval` steps and when training ends (not after an error).

    Checkpoints of another run, or of steps beyond the one that is resumed, are moved to `output_dir/superseded_*`
    when training begins; they are never deleted. While training runs, no other process may write into the folder.

    A checkpoint that cannot be written (the disk is full) is a warning: training goes on, older checkpoints are as they
    were, and the next save is tried at the next interval. That of the last step is an error; the trainer still has
    everything, and `trainer.train(data)` tries to save it again.

    Args:
        output_dir: The folder of checkpoints.
        save_interval: Steps between two of them; None for the trainer's `save_interval`.
        max_checkpoints: How many of the newest to keep; the best one is kept besides.
        monitor: Name of the metric that decides which is best: one of the losses, or "eval/NAME" for a result of an
            evaluation, of which the newest counts when a checkpoint is saved; there is no best before the first.
            `best.json` names the checkpoint. None for no best.
        mode: Whether a low ("min") or a high ("max") metric is good.
        background: Write while training goes on: a save then only takes the time of copying all tensors to the CPU's
            memory, which must have room for them. One is written at a time; training ends when the last is.

    Raises:
        ConfigError: A number is out of range.
    """

    order = Order.SAVE

    def __init__(
        self,
        output_dir: str | os.PathLike[str] = "./checkpoints",
        save_interval: int | None = None,
        max_checkpoints: int = 3,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        background: bool = False,
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
        self.background = background
        self.best_step: int | None = None
        self.best_value: float | None = None
        self._saved_step: int | None = None  # the newest checkpoint here that is of this run
        self._asked_step: int | None = None  # the last one that was to be saved
        self._error: FileError | None = None  # why it could not be
        self._results: dict[str, float] = {}  # the newest of evaluations, by name
        self._has_warned = False  # that the monitor is not among them
        self._losses: Mapping[str, Tensor] = {}
        self._lock = FolderLock(self.output_dir)
        self._thread: ThreadPoolExecutor | None = None  # that writes in the background
        self._pending: _Pending | None = None  # what it writes

    def on_train_begin(self) -> None:
        """Lock the folder, and put away what does not belong to this run.

        Raises:
            FileError: Another process writes into the folder, or it cannot be written to.
        """
        if self.trainer.ranks.is_main:
            self._lock.acquire()
        try:
            self._put_away()
        except OSError as error:
            raise FileError(f"Cannot put away what is in {self.output_dir}: {error}. Choose another folder.") from error

    def _put_away(self) -> None:
        if self.trainer.ranks.is_main:
            remove_unfinished(self.output_dir)
        if self.trainer.step == 0:
            # A new run, if the callback has seen another one.
            self._saved_step = self.best_step = self.best_value = None
            self._results = {}
        resumed = self.trainer.last_checkpoint
        if resumed is not None and resumed.parent.resolve() == self.output_dir.resolve():
            self._saved_step = step_of(resumed)
        self._asked_step = self._saved_step
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
        if self._saved_step is not None:
            self._warn_of(self._tidy(self.best_step, self.best_value))  # a kill may have come before that

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the metrics, one of which may be monitored."""
        self._results.update(named_results(metrics))

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Save if it is time."""
        self._losses = losses
        if self.monitor is not None:
            check_monitor(self.monitor, losses, callback="CheckpointCallback")
        if self._pending is not None and self._pending.result.done():
            self._warn_of(self._finish())
        if step % self._interval == 0:
            self._warn_of(self._finish())
            self._warn_of(self._save(in_background=self.background))

    def on_train_end(self) -> None:
        """Wait for what is being written, and save the last step, unless it is saved or training failed.

        Raises:
            FileError: The last step cannot be saved.
        """
        try:
            self._warn_of(self._finish())
            if self.trainer.status == "failed":
                return
            if self.trainer.step not in (0, self._asked_step):
                self._warn_of(self._save(in_background=False))
            if self._error is not None and self.trainer.step != self._saved_step:
                raise self._error
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
            self._lock.release()
        if self.monitor is not None and is_result(self.monitor) and self.best_value is None:
            self._warn_of_missing(f"up to step {self.trainer.step}")

    def state_dict(self) -> dict[str, Any]:
        """Return which step is best so far."""
        return {"best_step": self.best_step, "best_value": self.best_value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore which step is best so far.

        Raises:
            DataError: It is no step.
        """
        step, value = state["best_step"], state["best_value"]
        if (step, value) != (None, None) and not (isinstance(step, int) and isinstance(value, int | float)):
            raise DataError(f"The best checkpoint cannot be step {shown(step)} with {shown(value)}. Use an older one.")
        self.best_step, self.best_value = step, value

    @property
    def _interval(self) -> int:
        return self.save_interval or self.trainer.config.save_interval

    def _save(self, *, in_background: bool) -> FileError | None:
        """Save the present step, or begin to, and return what went wrong."""
        self._asked_step, self._error = self.trainer.step, None
        former_best = self.best_step, self.best_value
        self._judge()
        best = self.best_step, self.best_value
        try:
            checkpoint = self.trainer.capture()
        except FileError as error:  # a callback has files of its own: collected episodes
            return self._fail(error, former_best)
        if not self.trainer.ranks.is_main:  # of what all processes gathered, the first one writes
            self._saved_step = self.trainer.step
            return None
        if in_background:
            self._thread = self._thread or ThreadPoolExecutor(1, "checkpoints")
            result = self._thread.submit(self._write, checkpoint.snapshot(), *best)
            self._pending = _Pending(checkpoint.step, former_best, result)
            return None
        return self._note(checkpoint.step, former_best, lambda: self._write(checkpoint, *best))

    def _finish(self) -> FileError | None:
        """Wait until nothing is being written, and return what went wrong."""
        if self._pending is None:
            return None
        pending = self._pending
        error = self._note(pending.step, pending.former_best, pending.result.result)
        self._pending = None
        return error

    def _note(self, step: int, former_best: Best, result: Callable[[], FileError | None]) -> FileError | None:
        """Note what became of a save, and return what went wrong."""
        try:
            error = result()
        except FileError as failure:
            return self._fail(failure, former_best)
        self.trainer.last_checkpoint = self.output_dir / f"step_{step:08d}"
        self._saved_step = step
        return error

    def _fail(self, error: FileError, former_best: Best) -> FileError:
        self.best_step, self.best_value = former_best
        self._error = error
        return error

    def _write(self, checkpoint: Checkpoint, best_step: int | None, best_value: float | None) -> FileError | None:
        """Write a checkpoint and delete those that it replaces, maybe in a thread: nothing here is of the present step.

        What goes wrong once the checkpoint is there is returned.

        Raises:
            FileError: The checkpoint cannot be written.
        """
        save_checkpoint(self.output_dir, checkpoint, self.trainer.model)
        return self._tidy(best_step, best_value)

    def _tidy(self, best_step: int | None, best_value: float | None) -> FileError | None:
        """Say which checkpoint is the best, delete those that are too many, and return what went wrong."""
        best = None if best_step is None else self.output_dir / f"step_{best_step:08d}"
        path = self.output_dir / _BEST
        try:
            if best is not None and self.monitor is not None:
                record = {"checkpoint": best.name, "step": best_step, self.monitor: best_value}
                content = (json.dumps(record) + "\n").encode()
                if not path.is_file() or path.read_bytes() != content:
                    write_atomically(path, content)
            for old in list_checkpoints(self.output_dir)[: -self.max_checkpoints]:
                if old != best:
                    remove_checkpoint(old)
        except OSError as error:
            return FileError(f"{self.output_dir} has all checkpoints, but cannot be tidied: {error}")
        return None

    def _warn_of(self, error: FileError | None) -> None:
        if error is not None:
            warnings.warn(f"{error} Training is not affected, and later saves are tried as usual.", stacklevel=2)

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
