"""Seconds of training survive an interruption."""

from worldline.training.callbacks import TrainingClock
from worldline.training.callbacks import clock as module


def test_seconds_add_up_over_a_resume(monkeypatch):
    now = iter([10.0, 14.0, 100.0, 103.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    first = TrainingClock()
    first.on_train_begin()
    saved = first.state_dict()
    assert saved == {"seconds": 4.0}
    second = TrainingClock()
    second.load_state_dict(saved)
    second.on_train_begin()
    second.on_train_end()
    assert second.seconds == 7.0
