from __future__ import annotations

import dataclasses

import pytest
import torch

from tiny_family import make_batch
from worldline.batch import Batch, BatchRequest
from worldline.errors import ConfigError, FieldError


def test_attribute_and_item_are_the_same_thing():
    batch = make_batch()
    for name in batch.keys():  # noqa: SIM118 - a batch is not a dict
        assert batch[name] is getattr(batch, name)
    assert batch["obs"] is batch.obs


def test_extras_are_items():
    steps = torch.arange(15).view(3, 5)
    batch = dataclasses.replace(make_batch(), extras={"step": steps})
    assert batch["step"] is steps
    assert "step" in batch
    assert "obs" in batch
    assert "stop" not in batch


def test_unknown_field_names_the_nearest():
    with pytest.raises(FieldError, match="Did you mean 'rewards'"):
        make_batch()["reward"]
    with pytest.raises(KeyError):
        make_batch()["dones"]


def test_a_batch_unpacks_like_a_mapping():
    batch = make_batch()
    assert list(batch) == [field.name for field in dataclasses.fields(Batch)]
    assert dict(batch)["rewards"] is batch.rewards


def test_a_batch_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_batch().rewards = torch.zeros(3, 5)


def test_sizes():
    batch = make_batch(num_windows=3, length=5)
    assert (batch.batch_size, batch.sequence_length) == (3, 5)
    assert batch.device == torch.device("cpu")


def test_map_reaches_every_tensor_and_keeps_what_is_absent():
    batch = dataclasses.replace(
        make_batch(),
        obs={"image": torch.ones(3, 5, 2, 2, 1, dtype=torch.uint8), "state": torch.ones(3, 5, 4)},
        extras={"weight": torch.ones(3, 5)},
    )
    doubled = batch.map(lambda tensor: tensor * 2)
    assert doubled.obs["image"].dtype == torch.uint8
    assert all((tensor == 2).all() for tensor in doubled.obs.values())
    assert (doubled.extras["weight"] == 2).all()
    assert torch.equal(doubled.rewards, batch.rewards * 2)
    assert doubled.commands is None


def test_to_its_own_device_is_itself():
    batch = make_batch()
    assert batch.to("cpu") is batch
    assert batch.to("meta").rewards.is_meta


def test_to_a_device_that_is_not_here_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match=r"'cuda' is not available here.*device='auto'"):
        make_batch().to("cuda")


def test_request_defaults():
    assert BatchRequest(batch_size=4) == BatchRequest(batch_size=4, seq_len=None, device="cpu")
