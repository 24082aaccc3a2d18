"""EarlyStoppingCallback: by hand-made curves, and over a resume."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.errors import ConfigError
from worldline.training import EarlyStoppingCallback, EvaluationCallback, Trainer


def run(
    callback: EarlyStoppingCallback, loss: Callable[[int], float], steps: range, log_interval: int = 5
) -> int | None:
    """Feed losses to a callback; return the step at which it asked to stop."""
    trainer = Trainer(TinyModel(), make_config(log_interval=log_interval), [callback])
    for step in steps:
        callback.on_step_end(step, {"loss": torch.tensor(loss(step))})
        if trainer.stop_reason is not None:
            assert "loss has not improved" in trainer.stop_reason
            return step
    return None


def test_a_plateau_stops_after_the_patience() -> None:
    callback = EarlyStoppingCallback(patience=20, check_interval=5)
    assert (
        run(callback, lambda step: max(50.0 - step, 20.0), range(1, 200)) == 55
    )  # flat from 30, last better mean at 35


def test_progress_below_min_delta_does_not_count() -> None:
    steps = range(1, 200)
    assert run(EarlyStoppingCallback(patience=20, min_delta=1.0), lambda step: -0.01 * step, steps) == 25
    assert run(EarlyStoppingCallback(patience=20, min_delta=0.01), lambda step: -0.01 * step, steps) is None


def test_one_lucky_batch_is_averaged_out() -> None:
    curve = [5.0, 5.0, 5.0, 1.0, 5.0] * 100
    assert run(EarlyStoppingCallback(patience=10, min_delta=0.1), lambda step: curve[step], range(200)) is not None


def test_the_interval_never_exceeds_the_patience() -> None:
    assert run(EarlyStoppingCallback(patience=4), lambda step: 1.0, range(1, 100), log_interval=1000) == 8


def test_state_continues_in_the_middle_of_a_mean() -> None:
    def loss(step: int) -> float:
        return 1.0 / step if step < 33 else 0.1

    whole = EarlyStoppingCallback(patience=20)
    expected = run(whole, loss, range(1, 200))
    first, second = EarlyStoppingCallback(patience=20), EarlyStoppingCallback(patience=20)
    assert run(first, loss, range(1, 13)) is None
    second.load_state_dict(first.state_dict())
    assert run(second, loss, range(13, 200)) == expected
    assert second.state_dict() == whole.state_dict()


def test_an_evaluation_can_be_monitored_and_training_stops_there() -> None:
    evaluation = EvaluationCallback(lambda model, step: {"score": max(10.0 - step, 4.0)}, interval=2)
    trainer = Trainer(
        TinyModel(), make_config(total_steps=100), [EarlyStoppingCallback("eval/score", patience=6), evaluation]
    )
    trainer.train(TinySampler())
    assert (trainer.status, trainer.step) == ("stopped", 12)


def test_an_evaluation_that_comes_after_the_patience_is_waited_for() -> None:
    evaluation = EvaluationCallback(lambda model, step: {"score": 1.0}, interval=30)
    callbacks = [EarlyStoppingCallback("eval/score", patience=10), evaluation]
    trainer = Trainer(TinyModel(), make_config(total_steps=100), callbacks)
    trainer.train(TinySampler())
    assert (trainer.status, trainer.step) == ("stopped", 60)


def test_a_loss_that_no_step_has_is_an_error_at_once() -> None:
    trainer = Trainer(TinyModel(), make_config(total_steps=100), [EarlyStoppingCallback("lss", patience=10)])
    with pytest.raises(ConfigError, match=r"cannot monitor 'lss', which no step has\. Did you mean 'loss'"):
        trainer.train(TinySampler())
    assert trainer.step == 1


def test_a_result_that_never_comes_is_a_warning() -> None:
    evaluation = EvaluationCallback(lambda model, step: {"score": 1.0}, interval=5)
    trainer = Trainer(TinyModel(), make_config(), [EarlyStoppingCallback("eval/scroe", patience=10), evaluation])
    with pytest.warns(UserWarning, match=r"gave 'eval/scroe' up to step 20\. Did you mean 'eval/score'"):
        trainer.train(TinySampler())
    assert trainer.status == "finished"


@pytest.mark.parametrize("settings", [{"patience": 0}, {"min_delta": -1.0}, {"check_interval": 0}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="EarlyStoppingCallback needs"):
        EarlyStoppingCallback(**settings)  # type: ignore[arg-type]
