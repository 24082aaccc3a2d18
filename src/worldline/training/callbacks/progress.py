"""Show how far training is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from worldline.errors import ConfigError
from worldline.training.callbacks.base import Callback

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch import Tensor

_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 30.0


class ProgressCallback(Callback):
    """Shows step, loss, steps per second and remaining time, on standard error.

    The loss is fetched when something is shown, not at every step.

    Args:
        line_interval: Steps between two lines where there is no terminal; None for one every 30 seconds.
    """

    main_only = True

    def __init__(self, line_interval: int | None = None) -> None:
        if line_interval is not None and line_interval < 1:
            raise ConfigError(f"ProgressCallback needs a line_interval of at least 1; got {line_interval}.")
        self.line_interval = line_interval
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._started = 0.0
        self._first_step = 0
        self._shown = 0.0
        self._losses: Mapping[str, Tensor] = {}

    def on_train_begin(self) -> None:
        """Start the bar, if there is a terminal."""
        self._started = self._shown = time.perf_counter()
        self._first_step = self.trainer.step
        if self.trainer.console.is_terminal:
            self._start_bar()

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Show the step if it is time."""
        self._losses = losses
        now = time.perf_counter()
        if self._progress is not None:
            if now - self._shown >= _REFRESH_SECONDS:
                self._shown = now
                self._refresh()
        elif step % self.line_interval == 0 if self.line_interval else now - self._shown >= _LINE_SECONDS:
            self._shown = now
            self.trainer.console.print(self._line(), markup=False, highlight=False)

    def on_train_end(self) -> None:
        """Stop the bar and say how training ended."""
        if self._progress is not None:
            self._refresh()
            self._progress.stop()
            self._progress = None
        reason = f" ({self.trainer.stop_reason})" if self.trainer.stop_reason else ""
        line = f"{self._line()}, {self.trainer.status}{reason}"
        self.trainer.console.print(line, markup=False, highlight=False)

    def _start_bar(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self.trainer.console)
        total = max(self.trainer.last_step, self.trainer.step)
        self._task = self._progress.add_task("", total=total, completed=self.trainer.step)
        self._progress.start()

    def _refresh(self) -> None:
        assert self._progress is not None
        assert self._task is not None
        self._progress.update(self._task, completed=self.trainer.step, description=self._description())

    def _description(self) -> str:
        done = self.trainer.step - self._first_step
        rate = done / max(time.perf_counter() - self._started, 1e-9)
        loss = f"loss {self._losses['loss']:.4g}, " if self._losses else ""
        return f"{loss}{rate:.4g} steps/s"

    def _line(self) -> str:
        return f"step {self.trainer.step} of {self.trainer.last_step}: {self._description()}"
