"""Ctrl-C and SIGTERM: the first is noted and obeyed after the step, the second acts at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which the first signal only sets `received`. Does nothing outside the main thread."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # None is a handler that was not installed from Python, and cannot be from there.
            self._previous = {number: signal.signal(number, self._note) or signal.SIG_DFL for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, self._previous[signal.Signals(number)])
            signal.raise_signal(number)  # to this thread, at once
        self.received = signal.Signals(number)
