"""One step: float16 with its loss scale against torch's, the state of all parts, losses at a precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.tiny_training import TinyModel, TinySampler, make_config, same_state, state_of
from worldline.batch import Batch
from worldline.errors import NonFiniteError
from worldline.training import CheckpointCallback, Trainer
from worldline.training.update import Updater

CPU = torch.device("cpu")
LAPROP = {"algorithm": "laprop", "eps": 1e-20, "agc": 0.3}
pytestmark = pytest.mark.filterwarnings("ignore:On a CPU, matrix products in float16")


class SteepModel(TinyModel):
    """Its scaled gradients overflow in float16 until the scale has come down."""

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        prediction = self.net[3](self.net[1](self.net[0](batch.obs))).squeeze(-1)
        return {"loss": 30 * (prediction - batch.rewards).square().mean()}


def test_fp16_equals_torchs_grad_scaler() -> None:
    config = make_config(precision="fp16", total_steps=30, grad_clip=0.5, weight_decay=0.1)
    updater = Updater(SteepModel(), config, CPU, lambda anomaly: "")
    other, sampler = SteepModel(), TinySampler()
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scales = []
    for step in range(1, 31):
        sampler.seek(seed=0, step=step)
        batch = sampler.sample(4, 3)
        metrics = updater.step(step, batch)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = other.compute_loss(batch)["loss"]
        assert metrics["loss_scale"].item() == scaler.get_scale()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        torch.testing.assert_close(metrics["loss"], loss.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(metrics["grad_norm"].isfinite(), norm.isfinite())
        scales.append(scaler.get_scale())
    assert scales[-1] < 2.0**14  # it has overflowed more than twice
    for own, reference in zip(updater._model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-4, atol=1e-5)
    state = updater.state_dict()
    count = optimizer.state[next(other.parameters())]["step"].item()
    assert state["num_updates/all"].item() == count < 30
    assert "anomalies/count" not in state


@pytest.mark.parametrize("group", [{}, LAPROP], ids=["adamw", "laprop"])
def test_fp16_learns_what_fp32_learns(group: dict[str, Any]) -> None:
    losses = {}
    for precision in ("fp32", "fp16"):
        trainer = Trainer(TinyModel(**group), make_config(total_steps=150, precision=precision, num_micro_batches=2))
        trainer.train(TinySampler())
        assert all(param.dtype == torch.float32 for param in trainer.model.parameters())
        losses[precision] = trainer.evaluate(TinySampler())["loss"]
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.1)


@pytest.mark.parametrize("group", [{}, LAPROP], ids=["adamw", "laprop"])
def test_fp16_resumes_bit_equal_while_the_scale_comes_down(tmp_path: Path, group: dict[str, Any]) -> None:
    config = make_config(precision="fp16", ema_decay=0.5, on_anomaly="rollback")
    whole = Trainer(SteepModel(**group), config, [CheckpointCallback(tmp_path / "a", 2, max_checkpoints=99)])
    whole.train(TinySampler())
    resumed = Trainer(SteepModel(9, **group), config, [CheckpointCallback(tmp_path / "b", 2)])
    resumed.train(TinySampler(), resume_from=tmp_path / "a" / "step_00000002")
    for name in ("model.safetensors", "optimizer.safetensors", "rng.safetensors"):
        contents = [(tmp_path / run / "step_00000020" / name).read_bytes() for run in "ab"]
        assert contents[0] == contents[1]
    assert whole._updater.state_dict()["scaler/scale"] < 2.0**15


def test_an_overflow_is_no_anomaly_but_a_gradient_that_overflows_unscaled_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the bad batch is saved

    class Infinite(TinyModel):
        def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
            losses = super().compute_loss(batch)
            losses["loss"].register_hook(lambda grad: grad * float("inf"))
            return losses

    trainer = Trainer(Infinite(), make_config(precision="fp16", total_steps=100))
    with pytest.raises(NonFiniteError, match="step 17 is NaN or infinite"):  # 2^16 has been halved 16 times
        trainer.train(TinySampler())
    assert same_state(state_of(trainer.model), state_of(Infinite()) | {"updates": torch.tensor(16.0)})


def test_fp16_on_a_cpu_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="float16 take several times as long"):
        Trainer(TinyModel(), make_config(precision="fp16"))


def test_the_state_holds_the_parts_in_use_alone() -> None:
    plain = Updater(TinyModel(), make_config(), CPU, lambda anomaly: "").state_dict()
    assert {name.partition("/")[0] for name in plain} == {"exp_avg", "exp_avg_sq", "num_updates"}
    config = make_config(precision="fp16", ema_decay=0.9, on_anomaly="skip", spike_threshold=5.0)
    full = Updater(TinyModel(), config, CPU, lambda anomaly: "").state_dict()
    assert full.keys() - plain.keys() == {
        *(f"average/{name}" for name, _ in TinyModel().named_parameters()),
        "scaler/scale",
        "scaler/good_steps",
        "anomalies/count",
        "anomalies/losses",
    }
    assert full.keys() > plain.keys()


def test_losses_are_returned_at_the_precision() -> None:
    class Seeing(TinyModel):
        def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
            seen.append(self.net(batch.obs).dtype)
            return super().compute_loss(batch)

    seen: list[torch.dtype] = []
    for precision in ("fp32", "bf16", "fp16"):
        trainer = Trainer(Seeing(), make_config(total_steps=1, precision=precision))
        trainer.train(TinySampler())
        trainer.evaluate(TinySampler(), num_batches=1)
    assert seen == [kind for kind in (torch.float32, torch.bfloat16, torch.float16) for _ in range(2)]
