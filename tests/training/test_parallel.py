"""DDP: several processes make the update of one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
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


@pytest.mark.parametrize(
    "settings",
    [
        {"num_micro_batches": 3},
        {"num_micro_batches": 3, "strategy": "fsdp"},
        {"batch_size": 5, "num_micro_batches": 3},  # shares of 3 and 2 windows are both cut into two parts
        {"ema_decay": 0.5},
        {"on_anomaly": "skip"},
        {"on_anomaly": "rollback"},
    ],
    ids=str,
)
def test_settings_mean_the_same_in_several_processes(ranks: RankPool, settings: dict[str, Any]) -> None:
    (reference,) = ranks.run(ranked.train, 1, **{**settings, "strategy": "ddp"})
    results = ranks.run(ranked.train, 2, **settings)
    assert_same(results)
    if "num_micro_batches" in settings:  # running statistics move with every piece, and pieces are other ones
        del reference["state"]["size"]
    assert_close(results, reference, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_gradient_that_overflows_in_one_share_is_left_out_in_all(ranks: RankPool, strategy: str) -> None:
    """In float16 that of a share does so earlier: it is a mean over fewer rows."""
    results = ranks.run(ranked.train, 2, precision="fp16", strategy=strategy)
    assert_same(results)
    first, *_, last = results[0]["losses"]
    assert first["grad_norm"] == float("inf")
    assert last["loss_scale"] < first["loss_scale"]
    assert 0 < last["grad_norm"] < 100


@pytest.mark.parametrize("on_anomaly", ["skip", "rollback"])
def test_what_a_bad_share_does_is_undone_in_all_processes(ranks: RankPool, tmp_path: Path, on_anomaly: str) -> None:
    results = ranks.run(ranked.outlive_a_nan, 2, folder=tmp_path, on_anomaly=on_anomaly)
    assert_same(results)
    assert [result["anomalies"] for result in results] == [1.0, 1.0]
    assert all(np.isfinite(value).all() for value in results[0]["state"].values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nonfinite_step_00000002", "step_00000008"]
    (alone,) = ranks.run(ranked.outlive_a_nan, 1, folder=tmp_path / "alone", on_anomaly=on_anomaly)
    for name, value in alone["state"].items():
        np.testing.assert_allclose(results[0]["state"][name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_loss_is_that_of_several_processes(ranks: RankPool, alone: dict[str, Any]) -> None:
    results = ranks.run(ranked.train, 2, compile=True)
    assert_close(results, alone, atol=1e-4)
    assert_same(results)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", sorted(TINY))
def test_every_family_stays_the_same_in_all_processes(ranks: RankPool, name: str, strategy: str) -> None:
    """Also its running statistics, although every process has noise and windows of its own."""
    results = ranks.run(ranked.train_family, 2, name=name, strategy=strategy, settings=TINY[name])
    assert [result["step"] for result in results] == [3, 3]
    assert_same(results)
    assert results[0]["noise"] != results[1]["noise"]
