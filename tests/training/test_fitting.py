"""Models that normalise take the statistics of their data, once."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldline.batch import Batch, WindowSpec
from worldline.create import create_model
from worldline.data.buffer import ReplayBuffer
from worldline.errors import DataError
from worldline.models.base import Model
from worldline.nn.normalizer import Normalizer
from worldline.statistics import ColumnStatistics
from worldline.training.callbacks.checkpoint import CheckpointCallback
from worldline.training.config import TrainingConfig
from worldline.training.source import warn_of_range
from worldline.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class ScaledConfig:
    pass


class Scaled(Model):
    """Predicts actions and remaining steps from normalised observations."""

    family = "scaled"
    windows = WindowSpec(pad_end=True, commands=True)

    def __init__(self) -> None:
        super().__init__(ScaledConfig())
        self.normalizer = Normalizer((1,))
        self.net = nn.Linear(1, 2)
        self.num_fits = 0

    @property
    def is_fitted(self) -> bool:
        return self.normalizer.is_fitted

    def fit(self, statistics: dict[str, ColumnStatistics]) -> None:
        self.num_fits += 1
        self.normalizer.fit(statistics["obs"])

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.commands is not None
        assert isinstance(batch.obs, Tensor)
        target = torch.cat([batch.actions, batch.commands[..., :1]], -1)
        return {"loss": (self.net(self.normalizer(batch.obs)) - target).pow(2).mean()}


def make_buffer(scale: float) -> ReplayBuffer:
    buffer = ReplayBuffer(1000, (1,), 1)
    obs = np.arange(20.0)[:, None] * scale
    buffer.add_episode(obs, obs / obs.max(), np.ones(20), terminated=True, final_obs=obs[0])
    return buffer


def test_the_first_data_is_the_scale() -> None:
    model = Scaled()
    trainer = Trainer(model, TrainingConfig(total_steps=3, batch_size=4, sequence_length=2))
    trainer.train(make_buffer(1.0))
    assert model.normalizer.shift.item() == 9.5
    trainer.train(make_buffer(100.0), num_steps=2)
    assert model.normalizer.shift.item() == 9.5
    Trainer(model, TrainingConfig(total_steps=1, batch_size=4, sequence_length=2)).train(make_buffer(100.0))
    assert (model.num_fits, model.normalizer.shift.item()) == (1, 9.5)


def test_a_resumed_run_keeps_its_scale(tmp_path: Path) -> None:
    config = TrainingConfig(total_steps=2, batch_size=4, sequence_length=2)
    Trainer(Scaled(), config, [CheckpointCallback(tmp_path, save_interval=1)]).train(make_buffer(1.0))
    model = Scaled()
    trainer = Trainer(model, TrainingConfig(total_steps=3, batch_size=4, sequence_length=2))
    trainer.train(make_buffer(100.0), resume_from=tmp_path)
    assert (model.num_fits, model.normalizer.shift.item()) == (0, 9.5)


def test_data_without_statistics_says_what_to_do() -> None:
    batches = [make_buffer(1.0).sample(4, 2, windows=Scaled.windows)]
    with pytest.raises(DataError, match="statistics"):
        Trainer(Scaled(), TrainingConfig(total_steps=1, batch_size=4)).train(batches)


def looked_at(model: str, actions: np.ndarray) -> None:
    """Let a batch with these actions `[40, 2]` be looked at as the first one of a run."""
    buffer = ReplayBuffer(100, (3,), 2, action_sizes=())
    buffer.add_episode(np.zeros((40, 3)), actions, np.zeros(40), terminated=True)
    built = create_model(model, obs_shape=(3,), action_dim=2, action_type="continuous")
    warn_of_range(built, buffer.sample(8, 4))


@pytest.mark.parametrize("model", ["bc:small", "udrl:small", "flow_policy:small", "dreamerv3:size1m", "tdmpc2:1m"])
def test_actions_out_of_range_are_told(model: str):
    """Degrees or torques are learnt and then cut off at 1, so that nothing seems wrong but what the agent does."""
    actions = np.tile([[-1.2, 1.0], [0.5, 30.0]], (20, 1))
    with pytest.warns(UserWarning, match=r"from -1.2 to 30, .* in \[-1, 1\]"):
        looked_at(model, actions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looked_at(model, actions / 30)


def test_models_that_do_not_act_may_see_any_actions():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looked_at("shield:quantile", np.full((40, 2), 30.0))


def test_the_range_is_looked_at_once():
    buffer = ReplayBuffer(100, (3,), 2, action_sizes=())
    buffer.add_episode(np.zeros((40, 3)), np.full((40, 2), 2.0), np.zeros(40), terminated=True)
    model = create_model("bc:small", obs_shape=(3,), action_dim=2, action_type="continuous")
    trainer = Trainer(model, TrainingConfig(total_steps=4, batch_size=8, sequence_length=1, device="cpu"), callbacks=[])
    with pytest.warns(UserWarning, match="from 2 to 2") as told:
        trainer.train(buffer)
    assert sum("of the first batch" in str(warning.message) for warning in told) == 1
