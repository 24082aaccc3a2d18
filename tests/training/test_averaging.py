"""The average equals torch's AveragedModel, is put in and taken out exactly, and resumes bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.tiny_training import TinyModel, TinySampler, make_config, same_state, state_of
from worldline.errors import DataError
from worldline.protocols import ParamGroup
from worldline.training import Callback, CheckpointCallback, Trainer
from worldline.training.averaging import WeightAverage
from worldline.training.optim import build_optimizer


def averaged(trainer: Trainer[TinyModel]) -> dict[str, torch.Tensor]:
    with trainer.averaged_weights():
        return state_of(trainer.model)


def test_it_equals_torchs_averaged_model() -> None:
    reference: list[AveragedModel] = []

    class Reference(Callback):
        def on_train_begin(self) -> None:
            reference.append(AveragedModel(self.trainer.model, multi_avg_fn=get_ema_multi_avg_fn(0.9)))
            reference[0].n_averaged += 1  # it would replace what it begins with by the first weights

        def on_step_end(self, step: int, losses: object) -> None:
            reference[0].update_parameters(self.trainer.model)

    trainer = Trainer(TinyModel(), make_config(ema_decay=0.9), [Reference()])
    trainer.train(TinySampler())
    ours = averaged(trainer)
    for name, value in reference[0].module.named_parameters():
        torch.testing.assert_close(ours[name], value.detach(), rtol=1e-6, atol=1e-7)
        assert not torch.equal(ours[name], trainer.model.state_dict()[name])


def test_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(model, [ParamGroup(name="all", params=[model.weight])], weight_decay=0.0, grad_clip=0.0)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = WeightAverage(optimizer, 0.75)
    with torch.no_grad():
        model.weight.fill_(5.0)
    average.update()
    average.update(torch.tensor(1.0))  # left out
    average.update(torch.tensor(0.0))
    with average.applied():
        assert model.weight.item() == 0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 5
    assert model.weight.item() == 5.0


def test_the_weights_come_back_also_after_an_error_and_training_is_as_without() -> None:
    class Looking(Callback):
        def on_step_end(self, step: int, losses: object) -> None:
            with self.trainer.averaged_weights():
                self.trainer.evaluate(TinySampler(), num_batches=1)

    trainer = Trainer(TinyModel(), make_config(ema_decay=0.9), [Looking()])
    trainer.train(TinySampler())
    before = state_of(trainer.model)
    plain = Trainer(TinyModel(), make_config()).train(TinySampler())
    assert same_state(before, state_of(plain))
    with pytest.raises(RuntimeError), trainer.averaged_weights():
        raise RuntimeError
    assert same_state(before, state_of(trainer.model))


def test_buffers_are_the_present_ones() -> None:
    trainer = Trainer(TinyModel(), make_config(ema_decay=0.9))
    trainer.train(TinySampler())
    assert averaged(trainer)["updates"].item() == 20


def test_without_a_decay_the_weights_are_the_models() -> None:
    trainer = Trainer(TinyModel(), make_config())
    trainer.train(TinySampler())
    assert same_state(averaged(trainer), state_of(trainer.model))


def test_a_resumed_average_is_bit_equal(tmp_path: Path) -> None:
    whole = Trainer(TinyModel(), make_config(ema_decay=0.9), [CheckpointCallback(tmp_path, 7)])
    whole.train(TinySampler())
    resumed = Trainer(TinyModel(seed=9), make_config(ema_decay=0.9))
    resumed.train(TinySampler(), resume_from=tmp_path / "step_00000007")
    assert same_state(averaged(whole), averaged(resumed))


@pytest.mark.filterwarnings("ignore:Nothing to train")
def test_an_average_that_begins_at_a_resume_begins_with_the_weights_of_then(tmp_path: Path) -> None:
    trainer = Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path)])
    trainer.train(TinySampler())
    other = Trainer(TinyModel(seed=9), make_config(ema_decay=0.9))
    with pytest.warns(UserWarning, match=r"ema_decay None -> 0\.9"):
        other.train(TinySampler(), num_steps=0, resume_from=tmp_path)
    assert same_state(averaged(other), state_of(trainer.model))


def test_an_average_of_another_model_is_refused() -> None:
    trainer = Trainer(TinyModel(), make_config(ema_decay=0.9))
    state = trainer.capture().optimizer
    other = Trainer(TinyModel(), make_config(ema_decay=0.9))
    with pytest.raises(DataError, match=r"do not fit this model at 'net\.0\.bias'"):
        other._updater.load_state_dict({name: value for name, value in state.items() if name != "average/net.0.bias"})
