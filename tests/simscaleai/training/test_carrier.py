"""Dicts go through Worldline's batches and come out as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from simscaleai.training.carrier import carry, columns_of, unpack
from worldline.errors import DataError

CPU = torch.device("cpu")


def test_nested_dicts_and_texts_come_out_as_they_were():
    samples = {
        "observations": {"joint_pos": torch.rand(3, 7), "a/b~c": torch.rand(3, 2), "images": {"top": torch.ones(3, 2)}},
        "actions": torch.rand(3, 4, dtype=torch.float64),
        "index": torch.arange(3),
        "language": ["reach", "größer", ""],
        "array": np.ones((3, 1), dtype=np.float32),
    }
    found = unpack(carry(samples, CPU))
    assert list(found) == list(samples)
    assert list(found["observations"]) == ["joint_pos", "a/b~c", "images"]
    assert found["language"] == ["reach", "größer", ""]
    assert torch.equal(found["actions"], samples["actions"])  # type: ignore[arg-type]
    assert found["actions"].dtype == torch.float64
    assert torch.equal(found["observations"]["a/b~c"], samples["observations"]["a/b~c"])  # type: ignore[index]
    assert torch.equal(found["observations"]["images"]["top"], torch.ones(3, 2))


def test_a_batch_is_cut_sample_by_sample():
    batch = carry({"x": torch.arange(4.0), "language": ["a", "bb", "c", "d"]}, CPU)
    assert (batch.batch_size, batch.sequence_length) == (4, 1)
    assert batch.step_mask.all()
    part = unpack(batch.map(lambda tensor: tensor[1:3]))
    assert part["x"].tolist() == [1.0, 2.0]
    assert part["language"] == ["bb", "c"]
    assert not carry({"x": torch.ones(2)}, CPU, are_real=False).step_mask.any()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.ones(3), "must be a dict"),
        ((torch.ones(3),), "must be a dict"),
        ({"x": torch.ones(3), "y": torch.ones(2)}, "one row per sample"),
        ({"x": torch.ones(())}, "one row per sample"),
        ({}, "one row per sample"),
        ({"x": torch.ones(1), "y": {"z": None}}, "y/z of a batch is a NoneType"),
        ({"x": torch.ones(1), "y": [1, 2]}, "y of a batch is a list"),
    ],
)
def test_what_cannot_be_carried_is_named(samples: Any, message: str):
    with pytest.raises(DataError, match=message):
        carry(samples, CPU)


def test_columns_have_worldlines_names():
    samples = {"observations": {"ee_pos": torch.ones(2, 3)}, "actions": torch.ones(2, 4), "language": ["a", "b"]}
    assert list(columns_of(samples)) == ["obs.ee_pos", "actions"]
