"""EvaluationCallback: its interval, its context, and that it leaves training as it was."""

from __future__ import annotations

import pytest
import torch

from training.tiny_training import TinyModel, TinySampler, make_config, same_state, state_of
from worldline.errors import ConfigError
from worldline.training import EvaluationCallback, Trainer


def test_results_reach_all_callbacks_at_the_interval() -> None:
    seen: list[int] = []

    def evaluate(model: TinyModel, step: int) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(step)
        return {"score": float(step)}

    trainer = Trainer(TinyModel(), make_config(eval_interval=6), [EvaluationCallback(evaluate)])
    trainer.train(TinySampler())
    assert seen == [6, 12, 18]


def test_an_evaluation_that_draws_noise_changes_nothing() -> None:
    states = []
    for callbacks in ([], [EvaluationCallback(lambda model, step: {"x": torch.rand(()).item()}, interval=3)]):
        trainer = Trainer(TinyModel(), make_config(), callbacks)
        states.append(state_of(trainer.train(TinySampler())))
    assert same_state(*states)


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="interval of at least 1"):
        EvaluationCallback(lambda model, step: {}, interval=0)
