"""How long a run has trained, over all its interruptions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from worldline.training.callbacks.base import Callback


class TrainingClock(Callback):
    """Counts the seconds of training; a resumed run goes on from those of its checkpoint."""

    def __init__(self) -> None:
        self._before = 0.0
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def on_train_begin(self) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_train_end(self) -> None:
        """Stop."""
        self._before, self._began = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the seconds of a checkpoint."""
        self._before = float(state["seconds"])
