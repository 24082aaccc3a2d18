"""Evaluate at intervals and at the end, without disturbing training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from worldline.errors import ConfigError
from worldline.training.callbacks.base import Callback, Order

if TYPE_CHECKING:
    from torch import Tensor

Evaluate = Callable[[Any, int], Mapping[str, float]]


class EvaluationCallback(Callback):
    """Calls `evaluate(model, step)` every `interval` steps and at the last of the run; all callbacks get its result.

    The last step is `total_steps`, or that after which a callback asked to stop. Where only a part of the run ends
    (`num_steps`, Ctrl-C), nothing more is evaluated: what is logged in all is that of a run without interruptions.

    The model is in evaluation mode, takes no gradients, and has the averaged weights where `ema_decay` is set; torch's
    generators are seeded for the evaluation and put back afterwards. So a run with evaluations trains exactly as one
    without, also where `evaluate` samples the data that is trained on (if that can seek).

    Args:
        evaluate: Returns metrics by name.
        interval: Steps between two evaluations; None for the trainer's `eval_interval`.
    """

    order = Order.EVALUATE

    def __init__(self, evaluate: Evaluate, interval: int | None = None) -> None:
        if interval is not None and interval < 1:
            raise ConfigError(f"EvaluationCallback needs an interval of at least 1; got {interval}.")
        self.evaluate = evaluate
        self.interval = interval

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Evaluate if it is time."""
        is_last = step == self.trainer.config.total_steps or self.trainer.stop_reason is not None
        if is_last or step % (self.interval or self.trainer.config.eval_interval) == 0:
            with self.trainer.averaged_weights():
                evaluated = self.trainer.measure(lambda: dict(self.evaluate(self.trainer.model, step)))
            self.trainer.record_evaluation(evaluated)
