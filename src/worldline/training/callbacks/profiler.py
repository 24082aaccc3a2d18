"""Profile a few steps: a Chrome trace, and a table of the operators that took longest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldline.errors import ConfigError
from worldline.files import replacing
from worldline.training.callbacks.base import Callback

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor
    from torch.profiler import profile

_ROWS = 12


class ProfilerCallback(Callback):
    """Writes `output_dir/profile/trace_step_NNNNNNNN.json`, for chrome://tracing or https://ui.perfetto.dev.

    Leaves the first `wait` steps alone, profiles `warmup` steps for nothing (the first profiled ones take longer), and
    records `active` steps; a run of fewer steps waits less. Training computes the same numbers, somewhat slower.

    Args:
        output_dir: The run's folder.
        wait: Steps of this part of the run before anything is profiled.
        warmup: Steps that are profiled and forgotten.
        active: Steps that are recorded.
    """

    main_only = True

    def __init__(self, output_dir: str | os.PathLike[str], wait: int = 10, warmup: int = 2, active: int = 3) -> None:
        if wait < 0 or warmup < 0 or active < 1:
            raise ConfigError(
                "ProfilerCallback needs wait and warmup of at least 0 and active of at least 1; "
                f"got {wait}, {warmup} and {active}."
            )
        self.output_dir: Path = Path(output_dir)
        self.wait = wait
        self.warmup = warmup
        self.active = active
        self.trace: Path | None = None  # the newest one
        self._profiler: profile | None = None

    def on_train_begin(self) -> None:
        """Start the profiler, which waits."""
        import torch.profiler

        remaining = self.trainer.last_step - self.trainer.step
        if remaining < 1:
            return
        warmup = min(self.warmup, remaining - 1)
        active = min(self.active, remaining - warmup)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.trainer.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(
                wait=min(self.wait, remaining - active - warmup), warmup=warmup, active=active, repeat=1
            ),
            on_trace_ready=self._finish,
        )
        self.trace = None
        self._profiler.start()

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Tell the profiler that a step has ended."""
        if self._profiler is not None:
            self._profiler.step()
            if self.trace is not None:
                self._stop()

    def on_train_end(self) -> None:
        """Write what was recorded, if training ended while it was."""
        if self._profiler is not None:
            self._stop()
            if self.trace is None:
                warnings.warn(
                    f"Training ended at step {self.trainer.step}, before the steps that were to be profiled.",
                    stacklevel=2,
                )

    def _stop(self) -> None:
        assert self._profiler is not None
        profiler, self._profiler = self._profiler, None
        profiler.stop()

    def _finish(self, profiler: profile) -> None:
        """Write the trace and print the table."""
        trace = self.output_dir / "profile" / f"trace_step_{self.trainer.step:08d}.json"
        trace.parent.mkdir(parents=True, exist_ok=True)
        with replacing(trace) as (beside,):
            profiler.export_chrome_trace(str(beside))
        self.trace = trace
        self.trainer.console.print(_table(profiler.key_averages(), is_cuda=self.trainer.device.type == "cuda"))
        self.trainer.console.print(f"Trace: {trace}", markup=False, highlight=False, soft_wrap=True)


def _table(operators: Any, *, is_cuda: bool) -> Table:
    """Return the operators that took longest themselves, without those that they called."""
    from rich.table import Table

    def microseconds(item: Any) -> float:
        return float(item.self_device_time_total if is_cuda else item.self_cpu_time_total)

    items = [item for item in operators if not item.key.startswith("ProfilerStep")]
    total = sum(map(microseconds, items)) or 1.0
    table = Table(title=f"Time on the {'GPU' if is_cuda else 'CPU'}", title_justify="left")
    table.add_column("operator", overflow="fold")
    for name in ("calls", "ms", "share"):
        table.add_column(name, justify="right")
    for item in sorted(items, key=microseconds, reverse=True)[:_ROWS]:
        spent = microseconds(item)
        table.add_row(item.key, f"{item.count:,}", f"{spent / 1e3:.3f}", f"{spent / total:.1%}")
    return table
