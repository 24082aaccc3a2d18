"""Metrics of any dtype and one-element shape become floats."""

from __future__ import annotations

import torch

from worldline.training.metrics import to_floats


def test_scalars_of_several_dtypes() -> None:
    metrics = {"a": torch.tensor(1.5), "b": torch.tensor([2], dtype=torch.int64), "c": torch.tensor(True)}
    assert to_floats(metrics) == {"a": 1.5, "b": 2.0, "c": 1.0}


def test_nothing() -> None:
    assert to_floats({}) == {}
