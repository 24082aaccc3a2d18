"""Log losses, speed and memory at intervals: console, `metrics.jsonl`, TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldline.config import to_dict
from worldline.errors import ConfigError, missing_package
from worldline.lock import FolderLock
from worldline.memory import memory_in_use
from worldline.training.callbacks.base import Callback, Order
from worldline.training.callbacks.clock import TrainingClock
from worldline.training.loggers import JsonlWriter, MetricWriter, TensorBoardWriter, TrackioWriter, WandbWriter
from worldline.training.metrics import named_results, to_floats

if TYPE_CHECKING:
    from torch import Tensor


class LoggingCallback(Callback):
    """Logs every `log_interval` steps, after every evaluation, and at the last step of the run.

    A line has the losses of the step, "grad_norm" (before clipping), "learning_rate", evaluation results as
    "eval/NAME", and what `measure` returns; since the last line "steps_per_second", "rows_per_second" and "data_wait"
    (the share of the time spent waiting for batches, in [0, 1]); "train_seconds" since the run began, which a resumed
    run goes on counting; and what `memory.memory_in_use` says. All losses leave the device in one transfer.

    Args:
        output_dir: Folder of `metrics.jsonl` and TensorBoard's files; None logs to the console only.
        log_interval: Steps between two lines; None for the trainer's `log_interval`.
        use_wandb: Log to Weights & Biases; where that is not possible, a warning says so and training goes on.
            Arguments of `wandb.init` (`{"project": ...}`) may be given instead of True.
        use_trackio: Log to trackio, under the project "worldline"; where that is not possible, the same.
        use_tensorboard: Write TensorBoard's files; None does so if it is installed and `output_dir` is given.
        console: Print every line, too.
        measure: Called at every line; returns more numbers by name (`OnlineSampler.metrics`).
        rename: What to call a metric instead; None leaves all names as they are.
    """

    order = Order.RECORD
    main_only = True

    def __init__(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        log_interval: int | None = None,
        use_wandb: bool | Mapping[str, Any] = False,
        use_tensorboard: bool | None = None,
        console: bool = True,
        measure: Callable[[], Mapping[str, float]] | None = None,
        use_trackio: bool = False,
        rename: Callable[[str], str] | None = None,
    ) -> None:
        if log_interval is not None and log_interval < 1:
            raise ConfigError(f"LoggingCallback needs a log_interval of at least 1; got {log_interval}.")
        if use_tensorboard and output_dir is None:
            raise ConfigError("LoggingCallback(use_tensorboard=True) needs an output_dir to write to.")
        if use_tensorboard and not TensorBoardWriter.is_installed():
            raise missing_package("tensorboard", "training", "LoggingCallback(use_tensorboard=True)")
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.log_interval = log_interval
        self.use_wandb = use_wandb
        self.use_trackio = use_trackio
        self.use_tensorboard = use_tensorboard
        self.console = console
        self.measure = measure
        self.rename = rename
        self._lock: FolderLock | None = None
        self._writers: list[MetricWriter] = []
        self._evaluated: dict[str, float] = {}
        self._clock = TrainingClock()
        self._last_time = 0.0
        self._last_step = 0
        self._last_rows = 0
        self._last_data_seconds = 0.0

    def on_train_begin(self) -> None:
        """Open the files, at the step from which training goes on.

        Raises:
            FileError: Another process writes into the folder, or it cannot be written to.
        """
        step = self.trainer.step
        if self.output_dir is not None:
            self._lock = FolderLock(self.output_dir)
            self._lock.acquire()
            self._writers.append(JsonlWriter(self.output_dir / "metrics.jsonl", step=step))
            wants_tensorboard = self.use_tensorboard
            if wants_tensorboard is None:
                wants_tensorboard = TensorBoardWriter.is_installed()
            if wants_tensorboard:
                self._writers.append(TensorBoardWriter(self.output_dir / "tensorboard", step=step))
        config = to_dict(self.trainer.config)
        if self.use_wandb is not False:
            options = {} if self.use_wandb is True else self.use_wandb
            self._add(WandbWriter.start(config, self.output_dir, options))
        if self.use_trackio:
            self._add(TrackioWriter.start(config, self.output_dir))
        self._evaluated = {}
        self._clock.on_train_begin()
        self._restart_clock()

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the result for the line of this step."""
        self._evaluated.update(named_results(metrics))

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Log if it is time."""
        config = self.trainer.config
        is_time = step % (self.log_interval or config.log_interval) == 0 or step == config.total_steps
        if not self._evaluated and not is_time:
            return
        metrics = {**to_floats(losses), **self._evaluated, "learning_rate": self.trainer.learning_rate, **self._speed()}
        metrics |= memory_in_use(str(self.trainer.device))
        if self.measure is not None:
            metrics |= self.measure()
        self._evaluated = {}
        if self.rename is not None:
            metrics = {self.rename(name): value for name, value in metrics.items()}
        for writer in self._writers:
            writer.write(step, metrics)
        if self.console:
            self._print(step, metrics)
        self._restart_clock()

    def on_train_end(self) -> None:
        """Close the files."""
        self._clock.on_train_end()
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.close()
        if self._lock is not None:
            self._lock.release()

    def state_dict(self) -> dict[str, Any]:
        """Return how long the run has trained."""
        return self._clock.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self._clock.load_state_dict(state)

    def _add(self, writer: MetricWriter | None) -> None:
        if writer is not None:
            self._writers.append(writer)

    def _speed(self) -> dict[str, float]:
        trainer = self.trainer
        seconds = max(time.perf_counter() - self._last_time, 1e-9)
        return {
            "steps_per_second": (trainer.step - self._last_step) / seconds,
            # Of all processes, whose shares of a batch differ by a window at most.
            "rows_per_second": (trainer.num_rows - self._last_rows) * trainer.ranks.num_ranks / seconds,
            "data_wait": (trainer.data_seconds - self._last_data_seconds) / seconds,
            "train_seconds": self._clock.seconds,
        }

    def _restart_clock(self) -> None:
        self._last_time = time.perf_counter()
        self._last_step = self.trainer.step
        self._last_rows = self.trainer.num_rows
        self._last_data_seconds = self.trainer.data_seconds

    def _print(self, step: int, metrics: Mapping[str, float]) -> None:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.trainer.console.print(f"step {step}  {numbers}", markup=False, highlight=False, soft_wrap=True)
