"""Bad steps leave no trace: they are left out, or undone, twice the same bit for bit, also after a resume."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.tiny_training import TinyModel, TinySampler, make_batch, make_config, same_state, state_of
from worldline.batch import Batch
from worldline.errors import NonFiniteError
from worldline.training import Callback, CheckpointCallback, EarlyStoppingCallback, Trainer
from worldline.training.update import Updater

STEPS = 60
BAD = sorted(random.Random(0).sample(range(2, STEPS), 20))  # steps, counted from 1
LAPROP = {"algorithm": "laprop", "eps": 1e-20, "agc": 0.3}


class Factor(torch.autograd.Function):
    """Passes its input on, and multiplies the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


class FragileModel(TinyModel):
    """Its loss is always finite, its gradient what the batch says; statistics and a slow copy follow training."""

    def __init__(self, seed: int = 0, **group: object) -> None:
        super().__init__(seed, **group)
        self.register_buffer("mean_loss", torch.zeros(()))
        self.slow = torch.nn.Parameter(self.net[0].weight.detach().clone(), requires_grad=False)

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().compute_loss(batch)
        self.mean_loss.lerp_(losses["loss"].detach() * batch.extras["factor"].flatten()[0], 0.5)
        return {**losses, "loss": Factor.apply(losses["loss"], batch.extras["factor"].flatten()[0])}

    def after_update(self) -> None:
        super().after_update()
        self.slow.lerp_(self.net[0].weight.detach(), 0.1)


class FaultySampler(TinySampler):
    """Batches that make the gradient NaN or infinite in `bad` steps, counted from 1."""

    def __init__(self, bad: Sequence[int] = BAD) -> None:
        super().__init__()
        self.bad = set(bad)

    def sample(self, batch_size: int, seq_len: int | None = None, device: str | torch.device = "cpu") -> Batch:
        batch = super().sample(batch_size, seq_len, device)
        factor = 1.0
        if self.step in self.bad:  # already advanced: it is the step counted from 1
            factor = float("nan") if self.step % 2 else float("inf")
        return dataclasses.replace(batch, extras={"factor": torch.full((batch_size, seq_len or 1), factor)})


class Counts(Callback):
    """Keeps the metric "anomalies" of every step."""

    def __init__(self) -> None:
        self.counts: list[float] = []

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.counts.append(losses["anomalies"].item())


def build(mode: str, folder: Path, *, interval: int = 1, seed: int = 0, **settings: Any) -> Trainer[FragileModel]:
    group, save_interval = settings.pop("group", {}), settings.pop("save_interval", 10)
    config = make_config(**{"total_steps": STEPS, "on_anomaly": mode, "ema_decay": 0.9, **settings})
    callbacks = [CheckpointCallback(folder, save_interval, max_checkpoints=99), EarlyStoppingCallback(patience=999)]
    trainer = Trainer(FragileModel(seed, **group), config, callbacks)
    trainer._updater._watch.interval = interval
    return trainer


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of the last checkpoint."""
    return {path.name: path.read_bytes() for path in (folder / f"step_{STEPS:08d}").iterdir()}


@pytest.mark.parametrize("interval", [1, 8], ids=["every step", "at intervals"])
@pytest.mark.parametrize("group", [{}, LAPROP], ids=["adamw", "laprop"])
@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_two_runs_with_20_faults_and_a_resumed_one_end_with_the_same_bytes(
    tmp_path: Path, mode: str, group: dict[str, Any], interval: int
) -> None:
    for name in "ab":
        build(mode, tmp_path / name, interval=interval, group=group).train(FaultySampler())
    resumed = build(mode, tmp_path / "c", interval=interval, group=group, seed=9)
    resumed.train(FaultySampler(), resume_from=tmp_path / "a" / "step_00000030")
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")
    assert all(bool(tensor.isfinite().all()) for tensor in resumed.model.state_dict().values())
    if mode == "skip" or interval == 1:
        assert resumed._updater._watch.num_anomalies == 20
        assert sorted(path.name for path in (tmp_path / "a").glob("nonfinite_*")) == [
            f"nonfinite_step_{step:08d}" for step in BAD
        ]


@pytest.mark.parametrize("group", [{}, LAPROP], ids=["adamw", "laprop"])
def test_a_rolled_back_step_is_as_if_it_had_not_been(tmp_path: Path, group: dict[str, Any]) -> None:
    trainer = build("rollback", tmp_path, group=group)
    trainer.train(FaultySampler())
    other = build("stop", tmp_path / "other", group=group)
    run_by_hand(other._updater, [step for step in range(1, STEPS + 1) if step not in BAD])
    assert same_state(state_of(trainer.model), state_of(other.model))
    with trainer.averaged_weights(), other.averaged_weights():
        assert same_state(state_of(trainer.model), state_of(other.model))


def test_a_rollback_found_late_goes_back_to_the_last_check(tmp_path: Path) -> None:
    counts = Counts()
    trainer = build("rollback", tmp_path, interval=8, total_steps=24, save_interval=100)
    trainer.add_callback(counts)
    trainer.train(FaultySampler([11, 13]))
    other = build("stop", tmp_path / "other")
    run_by_hand(other._updater, [*range(1, 9), *range(17, 25)])  # 9 to 16 are undone
    assert same_state(state_of(trainer.model), state_of(other.model))
    assert counts.counts == [0.0] * 15 + [1.0] * 9


def run_by_hand(updater: Updater, steps: Sequence[int]) -> None:
    """Do `steps` and no others, from the seed on."""
    sampler = FaultySampler([])
    updater._model.train()
    torch.manual_seed(42)
    for step in steps:
        sampler.seek(seed=42, step=step - 1)
        updater.step(step, sampler.sample(4, 3))
    updater.release()


@pytest.mark.parametrize("group", [{}, LAPROP], ids=["adamw", "laprop"])
def test_a_skipped_step_changes_nothing_but_the_generators(tmp_path: Path, group: dict[str, Any]) -> None:
    trainer = build("skip", tmp_path, group=group, total_steps=12, save_interval=1)
    trainer.train(FaultySampler([1, 7, 8]))
    for before, after in ((6, 7), (7, 8)):
        first, second = (tmp_path / f"step_{step:08d}" for step in (before, after))
        assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
        assert (first / "rng.safetensors").read_bytes() != (second / "rng.safetensors").read_bytes()
    state = trainer._updater.state_dict()
    assert state["num_updates/all"].item() == 9
    assert state["anomalies/count"].item() == 3
    assert trainer.model.updates.item() == 9


@pytest.mark.parametrize("group", [{}, LAPROP], ids=["adamw", "laprop"])
def test_what_is_skipped_does_not_depend_on_when_anybody_looks(tmp_path: Path, group: dict[str, Any]) -> None:
    """As on an accelerator, where the device leaves the steps out long before the host knows."""
    for interval in (1, 8, 1000):
        build("skip", tmp_path / str(interval), interval=interval, group=group).train(FaultySampler())
    assert content(tmp_path / "1") == content(tmp_path / "8") == content(tmp_path / "1000")


def test_skipping_without_faults_changes_nothing(tmp_path: Path) -> None:
    models = [build(mode, tmp_path / mode).train(FaultySampler([])) for mode in ("stop", "skip", "rollback")]
    assert same_state(state_of(models[0]), state_of(models[1]))
    assert same_state(state_of(models[0]), state_of(models[2]))


def test_the_limit_stops_the_run(tmp_path: Path) -> None:
    trainer = build("rollback", tmp_path, max_anomalies=4)
    with pytest.raises(NonFiniteError, match=rf"step {BAD[4]} .*max_anomalies=4"):
        trainer.train(FaultySampler())
    assert (trainer.status, trainer.step) == ("failed", BAD[4] - 1)


def test_a_run_that_stopped_may_go_on_by_skipping(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        build("stop", tmp_path).train(FaultySampler([25]))
    trainer = build("skip", tmp_path)
    trainer.train(FaultySampler([25]), resume_from=tmp_path)  # without a warning of other settings
    assert (trainer.step, trainer._updater._watch.num_anomalies) == (STEPS, 1)


def test_a_nan_batch_is_saved_as_drawn(tmp_path: Path) -> None:
    build("skip", tmp_path, interval=1000, total_steps=10).train(FaultySampler([4]))
    saved = load_file(tmp_path / "nonfinite_step_00000004" / "batch.safetensors")
    assert torch.equal(saved["rewards"], make_batch(42 * 100_003 + 3).rewards)
    assert saved["extras/factor"].isinf().all()
