"""A batch in pieces: weights that sum to 1, and the gradients of the whole."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from training.tiny_training import TinyModel, TinySampler, make_batch, make_config
from worldline.batch import Batch
from worldline.ops.masking import masked_mean
from worldline.training import Trainer
from worldline.training.micro import micro_batches
from worldline.training.update import Updater


class MaskedModel(TinyModel):
    """Its loss is a mean over real rows; without dropout, of which a batch in pieces has other draws."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        error = self.net(batch.obs.double()).squeeze(-1) - batch.rewards.double()  # type: ignore[union-attr]
        return {
            "loss": masked_mean(error.square(), batch.step_mask),
            "error": masked_mean(error.abs(), batch.step_mask).detach(),
        }


def ragged(seed: int, lengths: tuple[int, ...]) -> Batch:
    """Return a batch of windows with so many real rows each."""
    batch = make_batch(seed, len(lengths), 6)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    return dataclasses.replace(batch, step_mask=mask, extras={"task": torch.zeros(len(lengths), 6)})


def test_pieces_and_weights_by_hand() -> None:
    batch = ragged(0, (6, 2, 0, 1, 1))
    pieces = list(micro_batches(batch, 2))
    assert [piece.batch_size for piece, _ in pieces] == [2, 3]
    assert [weight.item() for _, weight in pieces] == pytest.approx([0.8, 0.2])
    assert torch.equal(torch.cat([piece.rewards for piece, _ in pieces]), batch.rewards)
    assert pieces[1][0].extras["task"].shape == (3, 6)
    assert len(list(micro_batches(batch, 9))) == 5
    assert [weight.item() for _, weight in micro_batches(ragged(0, (0, 0)), 2)] == [0.0, 0.0]


@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_the_gradients_and_losses_are_those_of_the_uncut_batch(num_parts: int) -> None:
    batch = ragged(1, (6, 2, 0, 1, 5))
    results = []
    for parts in (1, num_parts):
        config = make_config(batch_size=5, num_micro_batches=parts, grad_clip=0.0)
        updater = Updater(MaskedModel(), config, torch.device("cpu"), lambda anomaly: "")
        metrics = updater.step(1, batch)
        grads = torch.cat([group.flat.grads for group in updater.optimizer.groups])
        results.append((grads, metrics))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    assert results[0][0].norm() > 0.1
    assert results[0][1].keys() == results[1][1].keys() == {"loss", "error", "grad_norm"}
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, rtol=1e-6, atol=1e-6)


def test_training_in_pieces_equals_training_on_whole_batches() -> None:
    models = []
    for parts in (1, 4):
        model = MaskedModel().float()
        model.compute_loss = lambda batch, model=model: TinyModel.compute_loss(model, batch)  # type: ignore[method-assign]
        config = make_config(num_micro_batches=parts, total_steps=50, learning_rate=1e-3)
        models.append(Trainer(model, config).train(TinySampler()))
        assert models[-1].updates.item() == 50  # one update for each batch, however many pieces
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
