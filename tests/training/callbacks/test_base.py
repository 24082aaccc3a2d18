"""Callback: hooks do nothing by default, and are called in their order."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.training import Callback, Trainer
from worldline.training.callbacks.base import Order


class Recording(Callback):
    def __init__(self, name: str, calls: list[str], order: Order = Order.MEASURE) -> None:
        self.name, self.calls = name, calls
        self.order = order  # type: ignore[misc]

    def on_train_begin(self) -> None:
        self.calls.append(f"{self.name}:begin at {self.trainer.step}")

    def on_step_begin(self, step: int) -> None:
        self.calls.append(f"{self.name}:{step}(")

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        assert not losses["loss"].requires_grad
        self.calls.append(f"{self.name}:{step})")

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(f"{self.name}:eval {step}")

    def on_train_end(self) -> None:
        self.calls.append(f"{self.name}:{self.trainer.status}")


def test_hooks_are_called_in_order_with_steps_from_1() -> None:
    calls: list[str] = []
    trainer = Trainer(TinyModel(), make_config(total_steps=2), [Callback(), Recording("a", calls)])
    trainer.train(TinySampler())
    trainer.evaluate(TinySampler(), num_batches=1)
    assert calls == ["a:begin at 0", "a:1(", "a:1)", "a:2(", "a:2)", "a:finished", "a:eval 2"]


def test_those_that_save_come_last_and_those_that_record_before_them() -> None:
    calls: list[str] = []
    orders = {"save": Order.SAVE, "record": Order.RECORD, "first": Order.MEASURE, "second": Order.MEASURE}
    trainer = Trainer(TinyModel(), make_config(total_steps=1))
    for name, order in orders.items():
        trainer.add_callback(Recording(name, calls, order))
    trainer.train(TinySampler())
    assert calls[-4:] == ["first:finished", "second:finished", "record:finished", "save:finished"]
