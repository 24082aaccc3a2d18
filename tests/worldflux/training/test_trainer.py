from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from tiny_family import Tiny, TinyConfig, make_batch
from worldflux import create_world_model
from worldflux.training import Batch, BatchRequest, ReplayBuffer, create_random_buffer, train
from worldline.errors import ConfigError


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny(TinyConfig(obs_shape=(4,), action_dim=2))


def buffer() -> ReplayBuffer:
    return create_random_buffer(capacity=1000, obs_shape=(4,), action_dim=2, num_episodes=5, episode_length=20, seed=0)


SMALL: dict[str, Any] = {"batch_size": 2, "sequence_length": 4, "device": "cpu", "callbacks": ()}


def test_train_returns_the_model(model: Tiny):
    before = model.encoder.weight.clone()
    assert train(model, buffer(), total_steps=3, learning_rate=1e-3, **SMALL) is model
    assert model.num_updates == 3
    assert not torch.equal(model.encoder.weight, before)


def test_the_data_is_called_buffer(model: Tiny):
    train(model, buffer=buffer(), total_steps=1, **SMALL)
    assert model.num_updates == 1


def test_steps_may_be_given_by_position(model: Tiny):
    train(model, buffer(), 2, **SMALL)
    assert model.num_updates == 2


def test_unknown_settings_give_the_nearest(model: Tiny):
    with pytest.raises(ConfigError, match=r"Did you mean 'grad_clip'\?"):
        train(model, buffer(), gradclip=1.0)


class Legacy:
    """The documents' first provider protocol."""

    def sample(self, batch_size: int, seq_len: int | None = None, device: str = "cpu") -> Batch:
        assert (batch_size, seq_len) == (2, 4)
        return make_batch(batch_size, seq_len)


class ByRequest:
    """The second."""

    def sample(self, request: BatchRequest) -> Batch:
        assert (request.batch_size, request.seq_len) == (2, 4)
        return make_batch(request.batch_size, request.seq_len)


@pytest.mark.parametrize("provider", [Legacy(), ByRequest()])
def test_both_provider_protocols(model: Tiny, provider: Any):
    train(model, provider, total_steps=2, **SMALL)
    assert model.num_updates == 2


@pytest.mark.parametrize(("built_for", "num_warnings"), [("discrete", 1), ("continuous", 0)])
def test_actions_of_another_type_are_a_warning(built_for: str, num_warnings: int):
    """`create_random_buffer` makes continuous ones, the documents' models are discrete."""
    model = create_world_model("dreamerv3:size1m", obs_shape=(4,), action_dim=2, action_type=built_for)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, buffer(), total_steps=1, **SMALL)
    messages = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert len(messages) == num_warnings
    assert all("actions are continuous, but the model was built for discrete" in message for message in messages)
