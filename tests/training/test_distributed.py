"""Several processes: the same windows on any number of them, what they agree on, and who writes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from training import ranked
from training.rank_pool import RankPool
from training.tiny_training import TinySampler, make_batch
from worldline.batch import Batch, share
from worldline.errors import ConfigError, DataError
from worldline.training.config import TrainingConfig
from worldline.training.distributed import ALONE, Ranks, join
from worldline.training.source import open_source


def same_batch(first: Batch, second: Batch) -> bool:
    return all(first[name] is second[name] is None or torch.equal(first[name], second[name]) for name in KEYS)


KEYS = ("obs", "actions", "rewards", "terminations", "is_first", "step_mask", "obs_mask", "commands")


@pytest.mark.parametrize("num_windows", [1, 2, 3, 7, 16, 64])
def test_shares_are_all_of_a_batch_and_nearly_equal(num_windows: int) -> None:
    for num_ranks in range(1, num_windows + 1):
        shares = [list(range(num_windows))[share(num_windows, rank, num_ranks)] for rank in range(num_ranks)]
        assert [window for part in shares for window in part] == list(range(num_windows))
        sizes = {len(part) for part in shares}
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", ["buffer", "sampler", "iterable"])
@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_shares_of_any_data_are_the_batches_of_one_process(kind: str, num_ranks: int) -> None:
    """Those of the buffer are gathered alone, those of others are cut from the whole batch."""

    def data() -> object:
        batches = [make_batch(seed, batch_size=16) for seed in range(4)]
        return {"buffer": ranked.make_buffer(), "sampler": TinySampler(), "iterable": batches}[kind]

    settings = {"batch_size": 16, "sequence_length": 6, "device": torch.device("cpu"), "seed": 3}
    whole = open_source(data(), **settings)  # type: ignore[arg-type]
    parts = [
        open_source(data(), **settings, place=(rank, num_ranks))  # type: ignore[arg-type]
        for rank in range(num_ranks)
    ]
    for step in range(6):
        expected, shares = whole.batch(step), [part.batch(step) for part in parts]
        assert [len(part.rewards) for part in shares] == [
            len(range(16)[share(16, r, num_ranks)]) for r in range(num_ranks)
        ]
        joined = {name: torch.cat([part[name] for part in shares]) for name in KEYS if expected[name] is not None}
        assert same_batch(Batch(**joined), expected)


def test_an_evaluation_between_two_steps_gets_whole_batches() -> None:
    buffer = ranked.make_buffer()
    settings = {"batch_size": 6, "sequence_length": 4, "device": torch.device("cpu"), "seed": 3}
    part = open_source(buffer, **settings, place=(1, 2))  # type: ignore[arg-type]
    whole = open_source(buffer, **settings)  # type: ignore[arg-type]
    assert [source.batch(0).batch_size for source in (part, whole, part)] == [3, 6, 3]


def test_more_processes_than_windows_is_an_error(ranks: RankPool) -> None:
    for message in ranks.run(ranked.too_few_windows, 2):
        assert "batch_size is 1, which 2 processes cannot share" in message
    with pytest.raises(DataError, match="A batch has 1 windows, which 2 processes cannot share"):
        open_source(
            [make_batch(0, batch_size=1)],
            batch_size=4,
            sequence_length=3,
            device=torch.device("cpu"),
            seed=0,
            place=(0, 2),
        ).batch(0)
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        ranked.make_buffer().seek(seed=0, step=0, rank=2, num_ranks=2)


def test_the_windows_are_the_same_when_the_number_of_processes_changes(ranks: RankPool, tmp_path: Path) -> None:
    """4 -> 1 -> 3 -> 2 processes, each going on from the checkpoint of the one before, with dropout."""
    expected = ranks.run(ranked.train, 1, total_steps=12, dropout=0.3)[0]["windows"]
    seen: list[list[float]] = []
    for num_ranks in (4, 1, 3, 2):
        results = ranks.run(ranked.train, num_ranks, folder=tmp_path, num_steps=3, total_steps=12, dropout=0.3)
        for step in range(3):
            seen.append([row for result in results for row in result["windows"][step]])
    assert seen == expected  # the same windows at the same step, in the same order
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000006", "step_00000009", "step_00000012"]


def test_a_run_resumed_on_as_many_processes_ends_with_the_same_bits(ranks: RankPool, tmp_path: Path) -> None:
    """On three: with more than two, the order in which gradients are added matters."""
    expected = ranks.run(ranked.train, 3, dropout=0.3)
    ranks.run(ranked.train, 3, folder=tmp_path, num_steps=3, dropout=0.3)
    resumed = ranks.run(ranked.train, 3, folder=tmp_path, dropout=0.3)
    for whole, part in zip(expected, resumed, strict=True):
        assert part["losses"] == whole["losses"][3:]
        assert part["noise"] == whole["noise"]
        assert all((part["state"][name] == value).all() for name, value in whole["state"].items())
    assert len({str(result["noise"]) for result in expected}) == 3  # every process has noise of its own


def test_processes_that_were_not_there_begin_streams_of_their_own(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(ranked.train, 1, folder=tmp_path, num_steps=3, dropout=0.3)
    first, second = (result["noise"] for result in ranks.run(ranked.train, 2, folder=tmp_path, dropout=0.3))
    assert first != second


@pytest.mark.parametrize("by_signal", [False, True], ids=["request", "SIGTERM"])
def test_what_one_process_wants_all_do_after_the_same_step(ranks: RankPool, tmp_path: Path, by_signal: bool) -> None:
    status, left = ("interrupted", 143) if by_signal else ("stopped", None)
    first, second = ranks.run(ranked.stop, 2, by_rank=1, by_signal=by_signal, folder=tmp_path)
    for result in (first, second):
        assert (result["step"], result["status"], result["left"]) == (4, status, left)
    assert first["saved"] == ["step_00000004"]
    assert first["evaluated"] == ([] if by_signal else [4])  # the last step of a run that a callback has ended
    assert second["evaluated"] == []


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_first_process_evaluates_the_whole_model_for_all(ranks: RankPool, strategy: str) -> None:
    (alone,) = ranks.run(ranked.evaluate, 1, strategy=strategy)
    first, second = ranks.run(ranked.evaluate, 2, strategy=strategy)
    assert (first["evaluated"], second["evaluated"]) == ([4, 8], [])
    assert first["seen"] == second["seen"]
    assert first["means"] == second["means"] == pytest.approx(alone["means"], rel=1e-5)
    for own, reference in zip(first["seen"], alone["seen"], strict=True):
        assert own == pytest.approx(reference, rel=1e-5)
    assert first["callbacks"] == second["callbacks"]


def test_a_nan_in_one_share_stops_all_before_the_update(ranks: RankPool, tmp_path: Path) -> None:
    first, second = ranks.run(ranked.meet_a_nan, 2, folder=tmp_path)
    assert (first["step"], first["updates"]) == (second["step"], second["updates"]) == (1, 1.0)
    assert "nonfinite_step_00000002" in first["message"]
    assert "The first process has" in second["message"]
    from safetensors.torch import load_file

    rewards = load_file(tmp_path / "nonfinite_step_00000002" / "batch.safetensors")["rewards"]
    assert len(rewards) == 16  # the whole batch
    assert math.isnan(rewards[-1, 0])


def test_the_first_process_answers_and_all_are_heard(ranks: RankPool) -> None:
    answers = ranks.run(ranked.ask_the_first, 3)
    for value, error, gathered in answers:
        assert value["rank"] == 0
        assert math.isnan(value["nan"])
        assert error == "no such folder"
        assert [part["rank"] for part in gathered] == [0, 1, 2]
        assert [len(part["text"]) for part in gathered] == [0, 10, 20]


def test_online_every_process_collects_the_same(ranks: RankPool, tmp_path: Path) -> None:
    first, second = ranks.run(ranked.learn_online, 2, folder=tmp_path / "whole")
    assert first["episodes"] == second["episodes"]
    ranks.run(ranked.learn_online, 2, folder=tmp_path / "parts", num_steps=5)
    resumed = ranks.run(ranked.learn_online, 2, folder=tmp_path / "parts")
    for result in (second, *resumed):
        assert result["episodes"] == first["episodes"]
        assert all((result["state"][name] == value).all() for name, value in first["state"].items())


def test_a_process_that_nobody_started_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join() is ALONE
    assert ALONE.seed(7) == 7
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(
        ConfigError, match=r"WORLD_SIZE is 2, but RANK.* not set. Start several processes with worldline"
    ):
        join()


def test_each_process_of_a_machine_has_its_own_device() -> None:
    second = Ranks(rank=5, num_ranks=8, local_rank=1)
    assert second.device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="'cuda:1', but 8 processes train together"):
        second.device("cuda:1")
    if not torch.cuda.is_available():
        assert second.device("auto") == "cpu"
        with pytest.raises(ConfigError, match="this is process 2 here, and 0 were found"):
            second.device("cuda")
    assert len({Ranks(rank, 8).seed(7) for rank in range(8)}) == 8


def test_the_strategy_is_checked() -> None:
    with pytest.raises(ConfigError, match="strategy must be one of 'ddp', 'fsdp'; got 'zero'"):
        TrainingConfig(strategy="zero")  # type: ignore[arg-type]
