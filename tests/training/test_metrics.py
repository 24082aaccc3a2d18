"""Metrics of any dtype and one-element shape become floats; what can be monitored."""

from __future__ import annotations

import pytest
import torch

from worldline.errors import ConfigError
from worldline.training.metrics import check_monitor, is_result, named_results, to_floats


def test_scalars_of_several_dtypes() -> None:
    metrics = {"a": torch.tensor(1.5), "b": torch.tensor([2], dtype=torch.int64), "c": torch.tensor(True)}
    assert to_floats(metrics) == {"a": 1.5, "b": 2.0, "c": 1.0}


def test_nothing() -> None:
    assert to_floats({}) == {}


def test_results_of_evaluations_have_names_of_their_own() -> None:
    assert named_results({"loss": 1.0}) == {"eval/loss": 1.0}
    assert is_result("eval/loss")
    assert not is_result("loss")


def test_losses_are_there_at_every_step_and_results_are_not() -> None:
    losses = {"loss": torch.tensor(1.0)}
    check_monitor("loss", losses, callback="Mine")
    check_monitor("eval/score", losses, callback="Mine")
    with pytest.raises(ConfigError, match=r"Mine cannot monitor 'score'.*Known: loss\..*\"eval/NAME\""):
        check_monitor("score", losses, callback="Mine")
