"""overfit_batches: the loss falls to nothing on what is seen again and again, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from training.tiny_training import FEATURES, TinyModel, TinySampler, make_batch, make_config, same_state, state_of
from worldline.batch import Batch
from worldline.training import CheckpointCallback, Trainer

SEED = make_config().seed


class Rote(TinyModel):
    """Learns targets that have nothing to do with the observations: possible only for batches that come again."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(FEATURES, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (self.net(batch.obs).squeeze(-1) - torch.sin(1e4 * batch.rewards)).square().mean()}


def trainer_of(num_batches: int, folder: Path) -> Trainer[Rote]:
    config = make_config(total_steps=600, learning_rate=1e-2, overfit_batches=num_batches)
    return Trainer(Rote(), config, [CheckpointCallback(folder, 1000)])


def worst_of_the_first_two(model: Rote) -> float:
    return max(model.compute_loss(make_batch(SEED * 100_003 + step))["loss"].item() for step in range(2))


def test_the_loss_is_driven_down(tmp_path: Path) -> None:
    sampler = TinySampler()
    model = trainer_of(2, tmp_path / "two").train(sampler)
    assert sampler.drawn == [0, 1]  # of the order that all data has
    assert worst_of_the_first_two(model) < 0.01
    assert worst_of_the_first_two(trainer_of(0, tmp_path / "all").train(TinySampler())) > 0.1


def test_a_resumed_run_draws_the_same_batches(tmp_path: Path) -> None:
    expected = state_of(trainer_of(2, tmp_path / "whole").train(TinySampler()))
    trainer_of(2, tmp_path / "parts").train(TinySampler(), num_steps=301)
    sampler = TinySampler()
    model = trainer_of(2, tmp_path / "parts").train(sampler, resume_from=tmp_path / "parts")
    assert sampler.drawn == [1, 0]
    assert same_state(state_of(model), expected)


def test_an_evaluation_is_of_other_batches() -> None:
    trainer = Trainer(TinyModel(), make_config(overfit_batches=1))
    sampler = TinySampler()
    trainer.train(sampler)
    sampler.drawn.clear()
    trainer.evaluate(sampler, num_batches=3)
    assert sampler.drawn == [0, 1, 2]
