"""Lines of errors for `parity.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

VALUE_BOUND, MEDIAN_BOUND = 1e-5, 1e-5


class Report:
    """Lines of errors, and whether one was too large."""

    def __init__(self) -> None:
        self.errors: list[float] = []
        self.failed = False

    def compare(self, name: str, ours: Any, theirs: Any, bound: float = VALUE_BOUND) -> None:
        """Print the relative error of one quantity."""
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape:
            self._line(name, float("inf"), bound, f"  shapes {ours.shape} and {theirs.shape}")
            return
        error = float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-12))
        self._line(name, error, bound)

    def compare_median(self, name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Print the relative error of the median element."""
        error = float(np.median(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-12)))
        self._line(name, error, MEDIAN_BOUND)

    def _line(self, name: str, error: float, bound: float, note: str = "") -> None:
        failed = not error <= bound
        self.failed |= failed
        self.errors.append(error)
        print(f"{name:<44} {error:9.2e}  (at most {bound:.0e}){'  FAILED' if failed else ''}{note}")

    def finish(self) -> int:
        """Print the last line and return the exit status."""
        print(f"max relative error {max(self.errors):.3e} over {len(self.errors)} quantities")
        return int(self.failed)
