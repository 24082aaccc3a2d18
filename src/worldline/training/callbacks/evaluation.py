"""Evaluate at intervals and at the end, without disturbing training."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from worldline.errors import ConfigError
from worldline.training.callbacks.base import Callback, Order

if TYPE_CHECKING:
    from torch import Tensor

    from worldline.training.source import Data

Evaluate = Callable[[Any, int], Mapping[str, float]]


class _AtIntervals(Callback, abc.ABC):
    """Evaluates every `interval` steps and at the last of the run; all callbacks get the result.

    The last step is `total_steps`, or that after which a callback asked to stop. Where only a part of the run ends
    (`num_steps`, Ctrl-C), nothing more is evaluated: what is logged in all is that of a run without interruptions.

    The model is in evaluation mode, takes no gradients, and has the averaged weights where `ema_decay` is set; torch's
    generators are seeded for the evaluation and put back afterwards. So a run with evaluations trains exactly as one
    without, also where an evaluation samples the data that is trained on (if that can seek).
    """

    order = Order.EVALUATE

    def __init__(self, interval: int | None) -> None:
        if interval is not None and interval < 1:
            raise ConfigError(f"{type(self).__name__} needs an interval of at least 1; got {interval}.")
        self.interval = interval

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Evaluate if it is time."""
        is_last = step == self.trainer.config.total_steps or self.trainer.stop_reason is not None
        if is_last or step % (self.interval or self.trainer.config.eval_interval) == 0:
            with self.trainer.averaged_weights():
                self._evaluate(step)

    @abc.abstractmethod
    def _evaluate(self, step: int) -> None:
        """Evaluate the trainer's model, and record the result."""


class EvaluationCallback(_AtIntervals):
    """Calls `evaluate(model, step)` at intervals.

    Args:
        evaluate: Returns metrics by name.
        interval: Steps between two evaluations; None for the trainer's `eval_interval`.
    """

    def __init__(self, evaluate: Evaluate, interval: int | None = None) -> None:
        super().__init__(interval)
        self.evaluate = evaluate

    def _evaluate(self, step: int) -> None:
        evaluated = self.trainer.measure(lambda: dict(self.evaluate(self.trainer.model, step)))
        self.trainer.record_evaluation(evaluated)


class HeldOutCallback(_AtIntervals):
    """Asks the model at intervals for its losses on data that it does not learn from, always the same batches.

    A loss that falls on the one and rises on the other says that the data is learnt by heart.

    Args:
        data: What is held out, of any kind that `Trainer.train` takes.
        num_batches: How many batches the losses are the mean of.
        interval: Steps between two evaluations; None for the trainer's `eval_interval`.
    """

    def __init__(self, data: Data, *, num_batches: int = 10, interval: int | None = None) -> None:
        super().__init__(interval)
        self.data = data
        self.num_batches = num_batches

    def _evaluate(self, step: int) -> None:
        self.trainer.evaluate(self.data, num_batches=self.num_batches)
