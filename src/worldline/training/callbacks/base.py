"""Callback: the hooks of the training loop."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from worldline.errors import DataError, WorldlineError

if TYPE_CHECKING:
    from torch import Tensor

    from worldline.training.trainer import Trainer


class Order(enum.IntEnum):
    """When a callback is called within a step, whatever the order in which callbacks were added."""

    MEASURE = 0
    EVALUATE = 1  # after those that may end the run, whose last step is evaluated
    RECORD = 2  # logs: after those that measure, so that one line holds all of a step
    SAVE = 3  # checkpoints: after all others, so that they hold what the step made of them


class Callback:
    """Hooks of the training loop. Override what you need; all of them do nothing here.

    Steps count from 1 and are those of the whole run, also after a resume. `losses` are detached tensors that may
    still be on their way: `losses["loss"].item()` waits for the device, so do it every so many steps, not at each.
    """

    order: ClassVar[Order] = Order.MEASURE
    main_only: ClassVar[bool] = False  # of several processes only the first calls it: it prints or writes, no more
    output_dir: Path | None = None  # where the callback writes, if it does
    trainer: Trainer[Any]  # set when the callback is added to a trainer

    def on_train_begin(self) -> None:
        """Called once per `train`, after a checkpoint was restored: `trainer.step` steps are done."""

    def on_step_begin(self, step: int) -> None:
        """Called before the batch of `step` is drawn."""

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Called after the update of `step`, with "loss", what else the model reports, and "grad_norm"."""

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after an evaluation."""

    def on_train_end(self) -> None:
        """Called once per `train`, also after an error; `trainer.status` says how it ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def named(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback]]:
    """Yield (name, callback): the name under which a checkpoint has its state."""
    counts: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        yield (name if counts[name] == 1 else f"{name}#{counts[name]}"), callback


def restore_callback(callback: Callback, state: Any, *, where: str) -> None:
    """Give a callback the state that a checkpoint has of it.

    Raises:
        DataError: It is not what the callback once saved.
    """
    try:
        callback.load_state_dict(state)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, WorldlineError):
            raise
        raise DataError(
            f"{where} cannot go on from what was saved ({error!r}). Resume with the same callbacks, or from an older "
            "checkpoint."
        ) from error
