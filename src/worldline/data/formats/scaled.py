"""ScaledRecording: an open file whose actions are taken to [-1, 1], where policies act."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.formats.recording import Recording, WrappedRecording
from worldline.episode import Array, check_finite
from worldline.errors import DataError
from worldline.statistics import ColumnStatistics, is_out_of_range

# What the bounds may take of the meta of every episode, as JSON: about 18 actions
_MAX_META_BYTES = 384


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ActionBounds:
    """What becomes -1 and what becomes 1 of each continuous action, to seven digits."""

    low: Array  # [A], or [] for all actions
    high: Array  # of the same shape

    def __post_init__(self) -> None:
        low, high = (np.vectorize(_rounded, otypes=[float])(bound) for bound in (self.low, self.high))
        if low.shape != high.shape or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise DataError(
                f"Actions are scaled from finite bounds, each low below its high; got {low.tolist()} and "
                f"{high.tolist()}."
            )
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @classmethod
    def of(cls, recording: Recording) -> ActionBounds:
        """Return the least and the greatest value of each action of an open file; what never changes becomes 0.

        Raises:
            DataError: Its actions are choices.
        """
        _check_continuous(recording)
        found = ColumnStatistics.of(block.actions for block in recording.checked_blocks())
        margin = np.where(found.low == found.high, np.maximum(1.0, 1e-3 * np.abs(found.low)), 0.0)
        return cls(low=found.low - margin, high=found.high + margin)

    def scale(self, actions: Array) -> Array:
        """Return `actions [..., A]` with the low bounds at -1 and the high ones at 1, float32."""
        with np.errstate(over="ignore"):  # told of where it matters
            scaled: Array = (2 * (actions - self.low) / (self.high - self.low) - 1).astype(np.float32)
        return scaled


class ScaledRecording(WrappedRecording):
    """An open file whose actions are scaled as they are read.

    Each episode's meta keeps the bounds, as "action_low" and "action_high", unless they are very many: an action `a` of
    [-1, 1] is carried out as `low + (a + 1) / 2 * (high - low)`.

    Args:
        whole: The file; this closes it.
        bounds: Of its actions.

    Raises:
        DataError: Its actions are choices, or the bounds are of another number of actions.
    """

    def __init__(self, whole: Recording, bounds: ActionBounds) -> None:
        _check_continuous(whole)
        if bounds.low.shape not in ((), (whole.spec.action_dim,)):
            raise DataError(
                f"There are {bounds.low.size} bounds, but {whole.path} has {whole.spec.action_dim} actions. Give one "
                "low and one high for each, or one of both for all."
            )
        super().__init__(whole)
        self._bounds = bounds

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes with scaled actions; warn in the end where actions were beyond the bounds.

        Raises:
            DataError: They were scaled before, or scaling makes them infinite.
        """
        kept = {"action_low": self._bounds.low.tolist(), "action_high": self._bounds.high.tolist()}
        if len(json.dumps(kept)) > _MAX_META_BYTES:
            kept = {}
        num_beyond = 0
        for block in self._whole.blocks():
            if any("action_low" in one for one in block.meta):
                raise DataError(
                    f"The actions of {self.path} were scaled before: its episodes have action_low in their meta. "
                    "Convert the original instead."
                )
            actions = self._bounds.scale(block.actions)
            check_finite(f"{self.path}, scaled: actions", actions)
            num_beyond += int(is_out_of_range(actions, actions).sum())
            meta = [{**one, **kept} for one in block.meta]
            scaled = dataclasses.replace(block, actions=actions, meta=meta)
            del block, actions  # before the next one is read
            yield scaled
            del scaled
        if num_beyond:
            warnings.warn(
                f"{num_beyond:,} of {self.num_steps * self.spec.action_dim:,} actions of {self.path} are beyond the "
                "bounds, and so beyond [-1, 1] where policies act, which cut them off.",
                stacklevel=2,
            )


def _check_continuous(recording: Recording) -> None:
    if recording.spec.action_type != "continuous":
        raise DataError(
            f"Actions of {recording.path} are choices ({recording.spec.action_type}), which have no scale. Convert it "
            "without one."
        )


def _rounded(number: float) -> float:
    return float(f"{number:.7g}")
