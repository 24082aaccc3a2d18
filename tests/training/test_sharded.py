"""FSDP2: the same training with the model divided, and checkpoints that any number of processes reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import ranked
from training.rank_pool import RankPool
from worldline.training.checkpoint import load_checkpoint


def assert_close(result: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected["state"].items():
        np.testing.assert_allclose(result["state"][name], value, rtol=0, atol=1e-5)


def test_saved_on_two_and_loaded_on_one_it_has_the_same_weights(ranks: RankPool, tmp_path: Path) -> None:
    results = ranks.run(ranked.train, 2, strategy="fsdp", folder=tmp_path, num_steps=4)
    saved = load_checkpoint(tmp_path)
    model = ranked.MaskedModel(seed=5)
    model.load_state_dict(saved.model)
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), results[0]["state"][name]), name
        assert np.array_equal(tensor.numpy(), results[1]["state"][name]), name
    shapes = {name: tensor.shape for name, tensor in saved.optimizer.items()}
    assert shapes["momentum/first.weight"] == (7, 4)
    assert shapes["exp_avg/second.weight"] == (1, 7)
    assert int(saved.optimizer["num_updates/first"]) == 4


@pytest.mark.parametrize(
    ("before", "after"),
    [(("fsdp", 2), ("ddp", 1)), (("ddp", 2), ("fsdp", 3)), (("fsdp", 3), ("fsdp", 2))],
    ids=["sharded to one", "whole to sharded", "sharded to sharded"],
)
def test_a_run_goes_on_sharded_or_not(
    ranks: RankPool, tmp_path: Path, before: tuple[str, int], after: tuple[str, int]
) -> None:
    (expected,) = ranks.run(ranked.train, 1)
    ranks.run(ranked.train, before[1], strategy=before[0], folder=tmp_path, num_steps=4)
    for result in ranks.run(ranked.train, after[1], strategy=after[0], folder=tmp_path):
        assert_close(result, expected)


def test_resumed_on_as_many_processes_it_ends_with_the_same_bits(ranks: RankPool, tmp_path: Path) -> None:
    expected = ranks.run(ranked.train, 2, strategy="fsdp", dropout=0.3)
    ranks.run(ranked.train, 2, strategy="fsdp", dropout=0.3, folder=tmp_path, num_steps=3)
    resumed = ranks.run(ranked.train, 2, strategy="fsdp", dropout=0.3, folder=tmp_path)
    for whole, part in zip(expected, resumed, strict=True):
        assert part["losses"] == whole["losses"][3:]
        assert all(np.array_equal(part["state"][name], value) for name, value in whole["state"].items())


@pytest.mark.parametrize("settings", [{"compile": True}, {"ema_decay": 0.9}, {"on_anomaly": "rollback"}], ids=str)
def test_what_takes_a_whole_model_is_refused(ranks: RankPool, settings: dict[str, Any]) -> None:
    for message in ranks.run(ranked.refuse, 2, strategy="fsdp", **settings):
        assert f"strategy 'fsdp' does not go with {next(iter(settings))}" in message


def test_what_cannot_follow_an_update_of_parts_is_an_error(ranks: RankPool) -> None:
    for message in ranks.run(ranked.renormalise, 2):
        assert "Renormalising.after_update cannot be done with divided parameters" in message
        assert message.endswith("Use strategy 'ddp'.")


def test_a_scalar_parameter_cannot_be_divided(ranks: RankPool) -> None:
    for message in ranks.run(ranked.divide_a_scalar, 2):
        assert "which temperature lack" in message
