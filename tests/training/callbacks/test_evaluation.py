"""EvaluationCallback: its interval, its context, and that it leaves training as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from training.tiny_training import FEATURES, TinyModel, TinySampler, make_config, same_state, state_of
from worldline.data.buffer import ReplayBuffer
from worldline.data.synthetic import create_random_buffer
from worldline.errors import ConfigError
from worldline.training import Callback, CheckpointCallback, EvaluationCallback, HeldOutCallback, Trainer


def test_results_reach_all_callbacks_at_the_interval() -> None:
    seen: list[int] = []

    def evaluate(model: TinyModel, step: int) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(step)
        return {"score": float(step)}

    trainer = Trainer(TinyModel(), make_config(eval_interval=6), [EvaluationCallback(evaluate)])
    trainer.train(TinySampler())
    assert seen == [6, 12, 18, 20]  # and the last step


def run_of(total_steps: int, *callbacks: Callback, **train: object) -> list[int]:
    seen: list[int] = []
    evaluation = EvaluationCallback(lambda model, step: seen.append(step) or {"score": 0.0}, interval=6)  # type: ignore[func-returns-value]
    trainer = Trainer(TinyModel(), make_config(total_steps=total_steps), [evaluation, *callbacks])
    trainer.train(TinySampler(), **train)  # type: ignore[arg-type]
    return seen


def test_the_last_step_is_evaluated_once() -> None:
    assert run_of(18) == [6, 12, 18]
    assert run_of(3) == [3]


def test_the_step_after_which_a_run_is_stopped_is_evaluated() -> None:
    class Stop(Callback):
        def on_step_end(self, step: int, losses: Mapping[str, torch.Tensor]) -> None:
            if step == self.at:
                self.trainer.request_stop("enough")

        def __init__(self, at: int) -> None:
            self.at = at

    assert run_of(20, Stop(8)) == [6, 8]  # whatever the order in which the two were added
    assert run_of(20, Stop(12)) == [6, 12]


def test_a_run_in_parts_is_evaluated_at_the_steps_of_a_whole_one(tmp_path: Path) -> None:
    def save() -> Callback:
        return CheckpointCallback(tmp_path, 100)

    assert run_of(20, save(), num_steps=8) == [6]
    assert run_of(20, save(), num_steps=4, resume_from=tmp_path) == [12]
    assert run_of(20, save(), resume_from=tmp_path) == [18, 20]


def test_an_evaluation_that_draws_noise_changes_nothing() -> None:
    states = []
    for callbacks in ([], [EvaluationCallback(lambda model, step: {"x": torch.rand(()).item()}, interval=3)]):
        trainer = Trainer(TinyModel(), make_config(), callbacks)
        states.append(state_of(trainer.train(TinySampler())))
    assert same_state(*states)


def test_an_evaluation_on_the_training_data_changes_nothing(tmp_path: Path) -> None:
    """Neither for a run that evaluates, nor for one that is resumed between two evaluations."""
    episodes = create_random_buffer(1000, (FEATURES,), 2, num_episodes=5, episode_length=20)

    def run(steps: int, interval: int | None = None, resume_from: Path | None = None) -> dict[str, torch.Tensor]:
        callbacks: list[Callback] = [CheckpointCallback(tmp_path / str(interval), 7)]
        if interval is not None:
            callbacks.append(EvaluationCallback(lambda model, step: evaluate(model), interval))
        trainer = Trainer(TinyModel(), make_config(total_steps=steps), callbacks)
        return state_of(trainer.train(episodes, resume_from=resume_from))

    def evaluate(model: TinyModel) -> dict[str, float]:
        batches = [episodes.sample(8, 2), episodes.sample(3, 5)]
        return {"loss": sum(model.compute_loss(batch)["loss"].item() for batch in batches)}

    expected = run(20)
    assert same_state(run(20, interval=3), expected)
    run(7, interval=4)
    assert same_state(run(20, interval=4, resume_from=tmp_path / "4"), expected)


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="interval of at least 1"):
        EvaluationCallback(lambda model, step: {}, interval=0)


def test_the_averaged_weights_are_evaluated() -> None:
    seen: list[torch.Tensor] = []

    def evaluate(model: TinyModel, step: int) -> dict[str, float]:
        seen.append(model.net[0].weight.detach().clone())
        return {"score": 0.0}

    trainer = Trainer(TinyModel(), make_config(ema_decay=0.9), [EvaluationCallback(evaluate, 20)])
    trainer.train(TinySampler())
    assert not torch.equal(seen[0], trainer.model.net[0].weight)
    with trainer.averaged_weights():
        assert torch.equal(seen[0], trainer.model.net[0].weight)


class Results(Callback):
    def __init__(self) -> None:
        self.losses: list[tuple[int, float]] = []

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        self.losses.append((step, metrics["loss"]))


def test_held_out_data_are_the_same_batches_every_time() -> None:
    """A model that learns next to nothing has the same loss each time, and it is that of the held-out data."""
    data = create_random_buffer(1000, (FEATURES,), 2, num_episodes=8, episode_length=20)
    held_out = ReplayBuffer(100, (FEATURES,), 2, action_sizes=(2,))
    rows = np.zeros((100, FEATURES), np.float32)
    held_out.add_episode(rows, np.eye(2, dtype=np.float32)[[0] * 100], np.full(100, 10.0), terminated=True)
    results = Results()
    callbacks = [HeldOutCallback(held_out, num_batches=4, interval=10), results]
    model = Trainer(TinyModel(), make_config(learning_rate=1e-30), callbacks).train(data).eval()
    with torch.no_grad():
        expected = (model.net(torch.zeros(1, FEATURES)) - 10.0).square().item()
    assert [step for step, _ in results.losses] == [10, 20]
    assert [loss for _, loss in results.losses] == pytest.approx([expected] * 2)


def test_held_out_data_change_nothing_in_training() -> None:
    data, held_out = create_random_buffer(1000, (FEATURES,), 2, num_episodes=5, episode_length=20).split(0.2)
    states = []
    for callbacks in ([], [HeldOutCallback(held_out, interval=3)]):
        states.append(state_of(Trainer(TinyModel(), make_config(), callbacks).train(data)))
    assert same_state(*states)
