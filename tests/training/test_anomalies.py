"""Anomalies are found at the next check, each once, with the generators' state of their step; too many stop a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.tiny_training import make_batch, make_config
from worldline.errors import AnomalyError, NonFiniteError
from worldline.training.anomalies import Anomaly, AnomalyWatch, SpikeRule, save_offending_batch

ONE = torch.tensor(1.0)
NAN = torch.tensor(float("nan"))
CPU = torch.device("cpu")


def state(value: int) -> dict[str, Tensor]:
    return {"cpu": torch.tensor([value], dtype=torch.uint8)}


def watching(interval: int = 1, **settings: object) -> tuple[AnomalyWatch, list[Anomaly]]:
    found: list[Anomaly] = []

    def record(anomaly: Anomaly) -> str:
        found.append(anomaly)
        return "It is in a folder."

    watch = AnomalyWatch(make_config(**settings), CPU, record)
    watch.interval = interval
    return watch, found


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_every_kind_of_bad_loss_or_gradient_is_found(bad: float) -> None:
    for loss, norm in ((torch.tensor(bad), ONE), (ONE, torch.tensor(bad)), (torch.tensor(bad), torch.tensor(bad))):
        watch, _ = watching()
        assert watch.add(1, state(0), loss, norm) is None
        with pytest.raises(NonFiniteError, match=r"step 1 is NaN or infinite\. It is in a folder"):
            watch.check()


def test_it_stops_at_the_first_bad_step_of_an_interval() -> None:
    watch, found = watching(5)
    for step in range(1, 6):
        assert watch.is_due(step) == (step == 5)
        watch.add(step, state(step), NAN if step >= 3 else ONE, ONE)
    with pytest.raises(NonFiniteError):
        watch.check()
    assert [anomaly.step for anomaly in found] == [3]
    assert torch.equal(found[0].rng["cpu"], state(3)["cpu"])


def test_a_check_looks_at_what_is_pending_once() -> None:
    watch, _ = watching(100)
    assert not watch.check()
    watch.add(1, state(1), NAN, ONE)
    with pytest.raises(NonFiniteError):
        watch.check()
    assert not watch.check()


def test_an_accelerator_is_asked_at_log_intervals_only() -> None:
    watch = AnomalyWatch(make_config(log_interval=7), torch.device("meta"), lambda anomaly: "")
    assert [step for step in range(1, 22) if watch.is_due(step)] == [7, 14, 21]


def test_every_bad_step_is_skipped_but_a_rollback_undoes_those_after_the_first() -> None:
    for mode, expected in (("skip", [2, 4]), ("rollback", [2])):
        watch, found = watching(5, on_anomaly=mode)
        skips = [watch.add(step, state(step), NAN if step in (2, 4) else ONE, ONE) for step in range(1, 6)]
        assert watch.check()
        assert [anomaly.step for anomaly in found] == expected
        assert watch.num_anomalies == len(expected)
        assert [None if skip is None else skip.item() for skip in skips] == (
            [0, 1, 0, 1, 0] if mode == "skip" else [None] * 5
        )


def test_more_than_the_limit_stops_and_says_so() -> None:
    watch, _ = watching(on_anomaly="skip", max_anomalies=2)
    for step in (1, 2):
        watch.add(step, state(0), NAN, ONE)
        assert watch.check()
    other, _ = watching(on_anomaly="skip", max_anomalies=2)
    other.load_state_dict(watch.state_dict())
    for resumed in (watch, other):
        resumed.add(3, state(0), NAN, ONE)
        with pytest.raises(NonFiniteError, match=r"step 3.*anomaly number 3, more than max_anomalies=2"):
            resumed.check()


def test_spike_statistics_by_hand() -> None:
    rule = SpikeRule(3.0, CPU)
    for loss in (1.0, 3.0, 5.0):  # the first hundred are weighted equally
        assert not rule.judge(torch.tensor(loss))
    assert rule.statistics.tolist() == pytest.approx([3.0, 8 / 3, 3.0])
    assert not rule.judge(NAN)
    assert not rule.judge(torch.tensor(1e9))  # too early to tell
    rule.statistics = torch.tensor([2.0, 0.25, 200.0])
    assert not rule.judge(torch.tensor(3.49))
    rule.statistics = torch.tensor([2.0, 0.25, 200.0])
    assert rule.judge(torch.tensor(1000.0))  # enters as 2 + 3 * 0.5 = 3.5, at a rate of 0.01
    assert rule.statistics.tolist() == pytest.approx([2.015, 0.99 * (0.25 + 0.01 * 1.5**2), 201.0])
    before = rule.statistics.clone()
    assert rule.judge(torch.tensor(float("inf")))
    assert not rule.judge(NAN)
    assert torch.equal(rule.statistics, before)


def test_a_spike_is_an_anomaly_and_a_new_level_is_accepted_in_time() -> None:
    generator = torch.Generator().manual_seed(0)
    noise: Callable[[], Tensor] = lambda: torch.randn((), generator=generator) * 0.1  # noqa: E731
    watch, found = watching(on_anomaly="skip", spike_threshold=6.0, max_anomalies=1000)
    for step in range(1, 301):
        watch.add(step, state(0), 2 + noise() + (5 if step == 250 else 0), ONE)
        watch.check()
    assert [(anomaly.step, anomaly.kind) for anomaly in found] == [(250, "spike")]
    for step in range(301, 1001):
        watch.add(step, state(0), 3 + noise(), ONE)
        watch.check()
    assert 301 <= found[1].step <= found[-1].step < 600


def test_a_spike_stops_with_an_error_of_its_own() -> None:
    watch, _ = watching(spike_threshold=6.0)
    for step in range(1, 200):
        watch.add(step, state(0), torch.tensor(1.0 + step % 2), ONE)
        watch.check()
    watch.add(200, state(0), torch.tensor(20.0), ONE)
    with pytest.raises(AnomalyError, match="loss of step 200 is far above") as caught:
        watch.check()
    assert not isinstance(caught.value, NonFiniteError)


@pytest.mark.parametrize("kind", ["nonfinite", "spike"])
def test_the_saved_batch_is_the_batch(tmp_path: Path, kind: str) -> None:
    batch = make_batch(3)
    anomaly = Anomaly(step=12, kind=kind, rng=state(9))  # type: ignore[arg-type]
    folder = save_offending_batch(tmp_path, batch, anomaly, seed=5)
    assert folder == tmp_path / f"{kind}_step_00000012"
    saved = load_file(folder / "batch.safetensors")
    assert torch.equal(saved["rewards"], batch.rewards)
    assert torch.equal(saved["is_first"], batch.is_first)
    assert saved.keys() == {"obs", "actions", "rewards", "terminations", "is_first", "step_mask", "obs_mask"}
    assert torch.equal(load_file(folder / "rng.safetensors")["cpu"], state(9)["cpu"])
    assert json.loads((folder / "step.json").read_text()) == {"step": 12, "seed": 5}
