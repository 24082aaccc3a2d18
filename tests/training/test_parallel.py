"""DDP: several processes make the update of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training import ranked
from training.rank_pool import RankPool

TINY = {
    "dreamerv3:size1m": {
        "deter": 16,
        "hidden": 8,
        "stoch": 4,
        "classes": 4,
        "blocks": 4,
        "units": 8,
        "num_bins": 15,
        "imagination_horizon": 3,
    },
    "tdmpc2:1m": {},
    "bc:small": {},
}


def assert_close(results: list[dict[str, Any]], reference: dict[str, Any], *, atol: float) -> None:
    for result in results:
        for own, expected in zip(result["losses"], reference["losses"], strict=True):
            assert own == pytest.approx(expected, abs=atol)
        for name, value in reference["state"].items():
            np.testing.assert_allclose(result["state"][name], value, rtol=0, atol=atol)


def assert_same(results: list[dict[str, Any]]) -> None:
    for result in results[1:]:
        for name, value in results[0]["state"].items():
            assert np.array_equal(result["state"][name], value), name


@pytest.fixture(scope="module")
def alone(ranks: RankPool) -> dict[str, Any]:
    (result,) = ranks.run(ranked.train, 1)
    assert min(losses["grad_norm"] for losses in result["losses"]) > 2 * 0.5  # every step is clipped
    return result


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_several_processes_equal_one_with_the_whole_batch(
    ranks: RankPool, alone: dict[str, Any], strategy: str, num_ranks: int
) -> None:
    """With masks, shares of uneven size, clipping by both rules, and a parameter that the loss does not reach."""
    results = ranks.run(ranked.train, num_ranks, strategy=strategy)
    assert_close(results, alone, atol=1e-5)
    assert_same(results)
    assert all(result["losses"] == results[0]["losses"] for result in results)  # metrics of the whole batch


def test_joint_clipping_is_of_the_averaged_gradient(ranks: RankPool) -> None:
    """Without clipping the run is another one, so the comparison above can fail."""
    (free,) = ranks.run(ranked.train, 1, grad_clip=0.0)
    results = ranks.run(ranked.train, 2, grad_clip=0.0)
    assert_close(results, free, atol=1e-5)
    (clipped,) = ranks.run(ranked.train, 1)
    assert np.abs(free["state"]["second.weight"] - clipped["state"]["second.weight"]).max() > 1e-4


def test_all_begin_with_the_weights_of_the_first(ranks: RankPool, alone: dict[str, Any]) -> None:
    assert_close(ranks.run(ranked.train, 2, seed_of_rank=True), alone, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", sorted(TINY))
def test_every_family_stays_the_same_in_all_processes(ranks: RankPool, name: str, strategy: str) -> None:
    """Also its running statistics, although every process has noise and windows of its own."""
    results = ranks.run(ranked.train_family, 2, name=name, strategy=strategy, settings=TINY[name])
    assert [result["step"] for result in results] == [3, 3]
    assert_same(results)
    assert results[0]["noise"] != results[1]["noise"]
